//! A Rust file taken apart just far enough for the rules: code without comments and literals,
//! comments without code, and which lines are tests.

/// A source file with the views the rules need. All views have the lines and columns of the
/// original.
pub struct Source {
    /// Path relative to the workspace, with `/`.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// The file with comments and the insides of string and character literals blanked.
    pub code: String,
    /// The file with everything but comments blanked.
    pub comments: String,
    /// For each line whether it is test code.
    pub test_lines: Vec<bool>,
}

impl Source {
    /// Takes a file apart.
    pub fn new(path: &str, text: &str) -> Source {
        let (code, comments) = split(text);
        let all_test = path.contains("/tests/") || path.ends_with("/tests.rs");
        let mut test_lines = vec![all_test; text.lines().count()];
        if !all_test {
            mark_test_modules(&code, &mut test_lines);
        }
        Source {
            path: path.into(),
            text: text.into(),
            code,
            comments,
            test_lines,
        }
    }

    /// The lines of `code` that are not tests, numbered from 1.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .zip(&self.test_lines)
            .enumerate()
            .filter(|(_, (_, test))| !**test)
            .map(|(index, (line, _))| (index + 1, line))
    }

    /// The line, from 1, of a byte position in `code`.
    pub fn line_of(&self, position: usize) -> usize {
        self.code[..position].matches('\n').count() + 1
    }

    /// Whether the line, from 1, is test code.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }
}

/// Whether a character can be part of a Rust word.
pub fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Byte positions where `word` stands as whole words in `text`.
pub fn find_word<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
        })
}

/// The position of the brace that closes the one at `open`.
pub fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Marks the lines from `#[cfg(test)]` to the end of the item after it.
fn mark_test_modules(code: &str, test_lines: &mut [bool]) {
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let rest = &code[at..];
        let Some(open) = rest.find('{').filter(|open| !rest[..*open].contains(';')) else {
            continue;
        };
        let Some(close) = matching_brace(code, at + open) else {
            continue;
        };
        let first = code[..at].matches('\n').count();
        let last = code[..close].matches('\n').count();
        test_lines[first..=last].fill(true);
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Code,
    Line,
    Block(u32),
    Text { hashes: Option<usize> },
}

/// Splits a file into the code view and the comment view.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut mode = Mode::Code;
    let mut at = 0;
    while at < chars.len() {
        let (taken, next) = step(&chars[at..], code.chars().next_back(), mode);
        for &c in &chars[at..at + taken] {
            let comment = matches!(mode, Mode::Line | Mode::Block(_))
                || matches!(next, Mode::Line | Mode::Block(_));
            let literal = matches!(mode, Mode::Text { .. }) || is_char_literal(mode, taken);
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if comment || literal { blank } else { c });
            comments.push(if comment { c } else { blank });
        }
        mode = next;
        at += taken;
    }
    (code, comments)
}

/// A step of several characters in code is a character literal, or the opening of something (blank
/// as well).
fn is_char_literal(mode: Mode, taken: usize) -> bool {
    matches!(mode, Mode::Code) && taken > 1
}

/// How many characters belong together at the front of `rest`, and the mode after them.
fn step(rest: &[char], before: Option<char>, mode: Mode) -> (usize, Mode) {
    let pair = (rest[0], rest.get(1).copied().unwrap_or('\0'));
    match mode {
        Mode::Code => code_step(rest, before, pair),
        Mode::Line if pair.0 == '\n' => (1, Mode::Code),
        Mode::Line => (1, Mode::Line),
        Mode::Block(depth) => match pair {
            ('*', '/') if depth == 1 => (2, Mode::Code),
            ('*', '/') => (2, Mode::Block(depth - 1)),
            ('/', '*') => (2, Mode::Block(depth + 1)),
            _ => (1, mode),
        },
        Mode::Text { hashes: None } => match pair {
            ('\\', _) if rest.len() > 1 => (2, mode),
            ('"', _) => (1, Mode::Code),
            _ => (1, mode),
        },
        Mode::Text {
            hashes: Some(count),
        } => {
            let closes =
                pair.0 == '"' && rest.len() > count && rest[1..=count].iter().all(|c| *c == '#');
            if closes {
                (count + 1, Mode::Code)
            } else {
                (1, mode)
            }
        }
    }
}

fn code_step(rest: &[char], before: Option<char>, pair: (char, char)) -> (usize, Mode) {
    match pair {
        ('/', '/') => (2, Mode::Line),
        ('/', '*') => (2, Mode::Block(1)),
        ('"', _) => (1, Mode::Text { hashes: None }),
        ('r', '"' | '#') if !before.is_some_and(|c| is_word(c) && c != 'b') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            match rest.get(1 + hashes) {
                Some('"') => (
                    2 + hashes,
                    Mode::Text {
                        hashes: Some(hashes),
                    },
                ),
                _ => (1, Mode::Code),
            }
        }
        ('\'', '\\') => {
            let end = rest.iter().skip(3).position(|c| *c == '\'');
            (end.map_or(1, |end| end + 4), Mode::Code)
        }
        ('\'', _) if rest.get(2) == Some(&'\'') => (3, Mode::Code),
        _ => (1, Mode::Code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text = "let a = \"x // { \\\" y\"; // note {\nlet b = '{'; /* a /* b */ c */ \
            let c = r#\"}\"#;\n";
        let source = Source::new("a.rs", text);
        assert!(
            !source.code.contains(['{', '}', 'x', 'y']),
            "{}",
            source.code
        );
        assert!(!source.code.contains("note"));
        assert!(source.code.contains("let c ="));
        assert!(source.comments.contains("// note {"));
        assert!(source.comments.contains("/* a /* b */ c */"));
        assert!(!source.comments.contains("let"));
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.len(), text.len());
    }

    #[test]
    fn lifetimes_are_no_character_literals() {
        let source = Source::new("a.rs", "fn f<'a>(x: &'a str) -> &'a str { x }");
        assert_eq!(source.code, source.text);
    }

    #[test]
    fn test_modules_and_test_files_are_test_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("crates/x/src/a.rs", text);
        assert_eq!(source.test_lines, [false, true, true, true, true, false]);
        assert!(Source::new("crates/x/tests/a.rs", text).is_test(1));
    }

    #[test]
    fn whole_words_only() {
        assert_eq!(
            find_word("unsafe_code unsafe", "unsafe").collect::<Vec<_>>(),
            [12]
        );
    }
}
