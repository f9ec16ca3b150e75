//! Shell patterns in paths: `*`, `?`, `[a-c]`, `[!x]`. A leading dot is only matched by a dot.
//!
//! A pattern is matched part by part of its path, so a `*` never crosses a `/`.

use std::path::{Path, PathBuf};

/// Whether there is anything to expand.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether one part of a path fits one part of a pattern. Takes time in proportion to the product
/// of their lengths at the most, whatever they are.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    if name.first() == Some(&'.') && pattern.first() != Some(&'.') {
        return false;
    }
    let (mut at, mut from) = (0, 0);
    // Where the last star stands, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, from));
            at += 1;
            continue;
        }
        if let Some(next) = one(&pattern, at, name[from]) {
            (at, from) = (next, from + 1);
            continue;
        }
        let Some((place, taken)) = star else {
            return false;
        };
        star = Some((place, taken + 1));
        (at, from) = (place + 1, taken + 1);
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// Where the pattern goes on when the item at `at` takes this character.
fn one(pattern: &[char], at: usize, found: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => match set(pattern, at + 1, found) {
            Some((true, next)) => Some(next),
            Some((false, _)) => None,
            None => (found == '[').then_some(at + 1), // Not closed: it stands for itself.
        },
        same => (*same == found).then_some(at + 1),
    }
}

/// Whether a set holds this character, and where the pattern goes on; `None` when it has no end.
fn set(pattern: &[char], start: usize, found: char) -> Option<(bool, usize)> {
    let not = matches!(pattern.get(start), Some('!' | '^'));
    let first = start + usize::from(not);
    let mut at = first;
    let mut holds = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((holds != not, at + 1));
        }
        let range = pattern.get(at + 1) == Some(&'-');
        let high = pattern.get(at + 2).filter(|high| range && **high != ']');
        match high {
            Some(high) => {
                holds |= (low..=*high).contains(&found);
                at += 3;
            }
            None => {
                holds |= low == found;
                at += 1;
            }
        }
    }
}

/// The files that fit a pattern, sorted; the pattern itself where there is nothing to expand.
pub fn expand(pattern: &str) -> Vec<PathBuf> {
    if !is_pattern(pattern) {
        return vec![PathBuf::from(pattern)];
    }
    let mut found = vec![PathBuf::from(match pattern.starts_with('/') {
        true => "/",
        false => "",
    })];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for dir in found {
            if !is_pattern(part) {
                let path = dir.join(part);
                if std::fs::symlink_metadata(&path).is_ok() {
                    next.push(path);
                }
                continue;
            }
            let place: &Path = match dir.as_os_str().is_empty() {
                true => Path::new("."),
                false => &dir,
            };
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            let mut names: Vec<String> = names.filter(|name| matches(part, name)).collect();
            names.sort();
            next.extend(names.into_iter().map(|name| dir.join(name)));
        }
        found = next;
    }
    found
}
