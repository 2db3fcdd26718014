//! Every requirement of `PROTOCOL.md` has a test that names it, in its name (`r15_…`) or in its documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PROTOCOL: &str = include_str!("../PROTOCOL.md");

/// Numbers that follow `mark` in a text.
fn numbers(text: &str, mark: &str) -> BTreeSet<u32> {
    let after = text.split(mark).skip(1);
    let digits = after.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// What the tests of a file say of themselves: the lines from a documentation comment to the name.
fn headings(source: &str) -> String {
    let mut headings = String::new();
    let mut before = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("///") {
            before.push(line);
        } else if line.starts_with("#[test]") {
            is_test = true;
        } else if !line.starts_with("#[") {
            if is_test || line.starts_with("fn r") {
                headings.extend(before.iter().chain([&line]).flat_map(|l| [*l, "\n"]));
            }
            before.clear();
            is_test = false;
        }
    }
    headings
}

fn read(folder: &Path, found: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            read(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let headings = headings(&fs::read_to_string(&path).unwrap());
            found.extend(numbers(&headings, "R-"));
            found.extend(numbers(&headings, "fn r"));
        }
    }
}

#[test]
fn every_requirement_is_numbered_once_and_has_a_test() {
    let defined: Vec<u32> = PROTOCOL
        .split("\n- **R-")
        .skip(1)
        .filter_map(|rest| rest.split("**").next()?.parse().ok())
        .collect();
    let once: BTreeSet<u32> = defined.iter().copied().collect();
    assert_eq!(defined.len(), once.len(), "a number is used twice");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tested = BTreeSet::new();
    for folder in ["sync/src", "dataplane/src", "src", "ctl/src", "tests"] {
        read(&root.join(folder), &mut tested);
    }
    let missing: Vec<_> = once.difference(&tested).collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
}
