//! From text to logical lines.
//!
//! ```text
//!   ARRAY r5 uuid=1:2:3:4   # a comment begins where a word could
//!     name="two words"      a line that begins with a blank goes on with the one before it
//! ```

/// A keyword and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The first word.
    pub keyword: String,
    /// The line it stands on, from 1.
    pub number: usize,
    /// The other words, each with its own line.
    pub words: Vec<(String, usize)>,
}

/// All lines with a keyword. Blank lines and comments end nothing, as in mdadm.
pub(super) fn logical_lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, physical) in text.lines().enumerate() {
        let number = index + 1;
        let mut words = split(physical).into_iter();
        let indented = physical.starts_with([' ', '\t']);
        if let (true, Some(line)) = (indented, lines.last_mut()) {
            line.words.extend(words.map(|word| (word, number)));
        } else if let Some(keyword) = words.next() {
            lines.push(Line {
                keyword,
                number,
                words: words.map(|word| (word, number)).collect(),
            });
        }
    }
    lines
}

/// The words of one physical line. Quotes of either kind hold blanks together, anywhere in a word;
/// one that is not closed ends with the line.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for one in line.chars() {
        if quote == Some(one) {
            quote = None;
        } else if quote.is_some() {
            word.get_or_insert_default().push(one);
        } else if matches!(one, '"' | '\'') {
            quote = Some(one);
            word.get_or_insert_default();
        } else if one.is_ascii_whitespace() {
            words.extend(word.take());
        } else if one == '#' && word.is_none() {
            break;
        } else {
            word.get_or_insert_default().push(one);
        }
    }
    words.extend(word);
    words
}
