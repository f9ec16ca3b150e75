//! What is written to the files of `umd mount`: it is refused, or asks for something that the file
//! is there to ask for.
//!
//! ```text
//!   which array | which of its files | what is written to it
//! ```

use std::sync::OnceLock;

use umd::api::ArraysDoc;
use umd::doc::ArrayDoc;
use umd::sysfs::{Change, Names, Node, change, change_parameters, mark, tree};

/// Arrays as daemons have shown them: idle, degraded with a bitmap, of level faulty, inactive.
const ARRAYS: &str = include_str!("../arrays.json");

/// An array, and its files below `md/`.
type Known = (ArrayDoc, Vec<(String, bool)>);

fn files(node: &Node, path: &str, found: &mut Vec<(String, bool)>) {
    match node {
        Node::Directory(entries) => {
            for (name, node) in entries {
                files(node, &format!("{path}/{name}"), found);
            }
        }
        Node::Text { writable, .. } => found.push((path.trim_start_matches('/').into(), *writable)),
        Node::Link(_) | Node::Device { .. } => {}
    }
}

fn known() -> &'static Vec<Known> {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let document: ArraysDoc = serde_json::from_str(ARRAYS).expect("a document");
        let arrays = document.arrays.into_iter().map(|array| {
            let mut names = Names::default();
            names.update(std::slice::from_ref(&array));
            let all = tree(std::slice::from_ref(&array), &names, false);
            let md = all.find(["sys", "block", &array.name, "md"]);
            let mut found = Vec::new();
            files(md.expect("every array has it"), "", &mut found);
            (array, found)
        });
        arrays.collect()
    })
}

/// Runs it.
pub fn run(data: &[u8]) {
    let [array, file, text @ ..] = data else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return; // EINVAL, before anybody looks.
    };
    let _ = change_parameters("start_dirty_degraded", text);
    let known = known();
    let (array, files) = &known[usize::from(*array) % known.len()];
    let (path, writable) = &files[usize::from(*file) % files.len()];
    let parts: Vec<&str> = path.split('/').collect();
    let answer = change(array, &parts, text);
    assert!(*writable || answer.is_err(), "{path} cannot be written");
    assert_eq!(answer, change(array, &parts, text), "{path}");
    let line = text.strip_suffix('\n').unwrap_or(text);
    if !line.ends_with('\n') {
        let plain = change(array, &parts, line);
        assert_eq!(answer, plain, "{path}: the end of the line means nothing");
    }
    match answer {
        Ok(Change::Stop) => assert_eq!(*path, "array_state"),
        Ok(Change::Manage(requests)) => assert!(!requests.is_empty(), "{path}"),
        Ok(Change::NewDevice(device)) => assert!(!device.is_empty() && path == "new_dev"),
        _ => {}
    }
    let _ = mark(path, text);
    let _ = mark("proc/mdstat", text);
}
