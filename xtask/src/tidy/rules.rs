//! The rules that look at one file: banned words, sizes, columns, ASCII, unwrap, notes without an
//! issue.

use super::Finding;
use super::layering::heads;
use super::source::{Source, find_word, is_word, matching_brace};

/// Lines of a function, signature and braces included.
pub const FUNCTION_LINES: usize = 70;
/// Lines of a file without its tests.
pub const FILE_LINES: usize = 800;
/// Characters of a line.
pub const COLUMNS: usize = 100;

/// What the core may not touch: a clock, a thread, the outside, an order that differs between runs.
const CORE_STD: [&str; 5] = ["time", "thread", "fs", "net", "env"];
const CORE_WORDS: [&str; 5] = ["HashMap", "HashSet", "unsafe", "rand", "async"];
/// Words that promise work; each needs the number of the issue that holds it, as in `TODO(#12)`.
const PROMISES: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Applies every rule of this file.
pub fn all(source: &Source) -> Vec<Finding> {
    let rules: [fn(&Source) -> Vec<Finding>; 7] = [
        core_words,
        function_length,
        file_length,
        columns,
        ascii,
        unwrap,
        promises,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn finding(source: &Source, rule: &'static str, line: usize, item: &str, what: String) -> Finding {
    Finding {
        rule,
        path: source.path.clone(),
        line,
        item: item.into(),
        size: None,
        what,
    }
}

fn core_words(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("crates/umd-core/src/") {
        return Vec::new();
    }
    let code = &source.code;
    let mut found: Vec<(usize, String)> = Vec::new();
    for word in CORE_WORDS {
        found.extend(find_word(code, word).map(|at| (at, word.to_string())));
    }
    for (at, _) in code.match_indices("std::") {
        if !code[..at].ends_with(is_word) {
            let heads = heads(code, at + "std::".len());
            let banned = heads
                .into_iter()
                .filter(|head| CORE_STD.contains(&head.as_str()));
            found.extend(banned.map(|head| (at, format!("std::{head}"))));
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|(at, word)| (source.line_of(at), word))
        .filter(|(line, _)| !source.is_test(*line))
        .map(|(line, word)| {
            let what = format!("the core may not use {word}");
            finding(source, "core-words", line, &word, what)
        })
        .collect()
}

fn function_length(source: &Source) -> Vec<Finding> {
    let code = &source.code;
    let mut findings = Vec::new();
    for at in find_word(code, "fn") {
        let name: String = code[at + 2..]
            .trim_start()
            .chars()
            .take_while(|c| is_word(*c))
            .collect();
        let line = source.line_of(at);
        if name.is_empty() || source.is_test(line) {
            continue; // a function pointer type, or a test
        }
        let Some(open) = code[at..].find(['{', ';']).map(|open| at + open) else {
            continue;
        };
        let Some(close) = matching_brace(code, open).filter(|_| code[open..].starts_with('{'))
        else {
            continue; // a declaration
        };
        let lines = source.line_of(close) - line + 1;
        if lines > FUNCTION_LINES {
            let what = format!("{name} has {lines} lines; the limit is {FUNCTION_LINES}");
            let mut found = finding(source, "function-length", line, &name, what);
            found.size = Some(lines);
            findings.push(found);
        }
    }
    findings
}

fn file_length(source: &Source) -> Vec<Finding> {
    let lines = source.test_lines.iter().filter(|test| !**test).count();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    let what = format!("{lines} lines without tests; the limit is {FILE_LINES}");
    let mut found = finding(source, "file-length", 1, "-", what);
    found.size = Some(lines);
    vec![found]
}

fn columns(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| line.chars().count() > COLUMNS)
        .map(|(index, line)| {
            let what = format!("{} columns; the limit is {COLUMNS}", line.chars().count());
            finding(source, "columns", index + 1, "-", what)
        })
        .collect()
}

fn ascii(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let strange = line.chars().find(|c| !c.is_ascii())?;
            let what = format!("{strange:?} is not ASCII");
            Some(finding(source, "ascii", index + 1, "-", what))
        })
        .collect()
}

fn unwrap(source: &Source) -> Vec<Finding> {
    let lines = source
        .code_lines()
        .filter(|(_, line)| line.contains(".unwrap()"));
    lines
        .map(|(line, _)| {
            let what = "unwrap outside tests; expect() states the invariant".to_string();
            finding(source, "unwrap", line, "-", what)
        })
        .collect()
}

fn promises(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.comments.lines().enumerate() {
        for word in PROMISES {
            let without_issue = find_word(line, word).any(|at| {
                let id = line[at + word.len()..].strip_prefix("(#");
                !id.is_some_and(|id| id.starts_with(|c: char| c.is_ascii_digit()))
            });
            // In backquotes the word is spoken about.
            if without_issue && !line.contains(&format!("`{word}")) {
                let what = format!("{word} without the number of an issue: {word}(#12)");
                findings.push(finding(source, "promise", index + 1, "-", what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let findings = all(&Source::new(path, text));
        findings
            .into_iter()
            .map(|finding| (finding.rule, finding.line))
            .collect()
    }

    const CORE: &str = "crates/umd-core/src/lane/mod.rs";
    const OTHER: &str = "crates/umd-disk/src/lib.rs";

    #[test]
    fn the_core_may_not_touch_the_outside() {
        let text = "use std::time::Instant;\nuse std::{collections::BTreeMap, fs};\n\
            type A = HashMap<u8, u8>; // HashSet\nasync fn f() {}\n#![forbid(unsafe_code)]\n\
            const B: &str = \"std::env\";\nfn g() { unsafe {} }\n";
        assert_eq!(
            found(CORE, text),
            [1, 2, 3, 4, 7].map(|line| ("core-words", line)),
        );
        assert_eq!(found(OTHER, text), []);
    }

    #[test]
    fn long_functions_are_found_by_name_and_size() {
        let long = format!(
            "fn short() {{}}\nfn long<'a>(x: &'a str) {{\n{}}}\n",
            "    f();\n".repeat(69)
        );
        let findings = all(&Source::new(OTHER, &long));
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].item.as_str(), findings[0].size),
            ("long", Some(71))
        );
        let fits = format!(
            "fn long() {{\n{}}}\ntrait T {{ fn f(); }}\n",
            "    f();\n".repeat(68)
        );
        assert_eq!(found(OTHER, &fits), []);
        let test = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(found(OTHER, &test), []);
    }

    #[test]
    fn long_files_are_counted_without_their_tests() {
        let code = "const A: u8 = 0;\n".repeat(801);
        assert_eq!(found(OTHER, &code), [("file-length", 1)]);
        let test = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(found(OTHER, &test), []);
    }

    #[test]
    fn wide_lines_and_strange_characters_are_found_in_comments_too() {
        let text = format!(
            "// {}\n// {}\n// caf\u{e9}\n",
            "a".repeat(98),
            "a".repeat(97)
        );
        assert_eq!(found(OTHER, &text), [("columns", 1), ("ascii", 3)]);
    }

    #[test]
    fn unwrap_is_for_tests() {
        let text = "fn f() { g().unwrap(); } // .unwrap()\n\
            #[cfg(test)]\nmod tests {\n    fn f() { g().unwrap(); }\n}\n";
        assert_eq!(found(OTHER, text), [("unwrap", 1)]);
        assert_eq!(found("crates/umd-disk/tests/a.rs", text), []);
    }

    #[test]
    fn promises_name_an_issue() {
        let text = "// TODO later\n// TODO(#12): later\nconst A: &str = \"TODO\";\n/* FIXME */\n";
        assert_eq!(found(OTHER, text), [("promise", 1), ("promise", 4)]);
    }
}
