//! The rooms of a crate, the modules at its root, know each other one way: what a room needs stands behind it, and nothing there needs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Whose rooms are held to it.
const CRATES: [&str; 5] = ["engine", "kafka", "connectors", "../protocol", "../protocol/storage"];

/// Which rooms a room names.
type Named = BTreeMap<String, BTreeSet<String>>;

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().to_string();
        if stem.ends_with("tests") || stem.ends_with("testing") || stem.ends_with("simulation") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The names that stand directly behind `crate::`, in braces or without.
fn behind_crate(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, rest) in text.match_indices("crate::").map(|(at, found)| text.split_at(at + found.len())) {
        let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    names.insert(name(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn named_in(root: &Path) -> Named {
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut named = Named::new();
    for file in files {
        let inside = file.strip_prefix(root).unwrap().components().next().unwrap();
        let room = inside.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
        let text = fs::read_to_string(&file).unwrap();
        let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let code: String = shipped
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .fold(String::new(), |all, line| all + line + "\n");
        named.entry(room).or_default().extend(behind_crate(&code));
    }
    // What the root itself puts together is no room.
    named.remove("lib");
    let rooms: BTreeSet<String> = named.keys().cloned().collect();
    for (room, others) in &mut named {
        others.retain(|other| other != room && rooms.contains(other));
    }
    named
}

/// The rooms that are left when those go, again and again, that name none of the others.
fn in_circles(mut named: Named) -> Named {
    loop {
        let free: BTreeSet<String> =
            named.iter().filter(|(_, others)| others.is_empty()).map(|(room, _)| room.clone()).collect();
        if free.is_empty() {
            return named;
        }
        named.retain(|room, _| !free.contains(room));
        for others in named.values_mut() {
            others.retain(|other| !free.contains(other));
        }
    }
}

#[test]
fn rooms_know_each_other_one_way() {
    for name in CRATES {
        let named = named_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("src"));
        assert!(named.values().any(|others| !others.is_empty()), "{name}: nothing is found");
        let circles = in_circles(named);
        assert!(circles.is_empty(), "{name}: these rooms need each other: {circles:?}");
    }
}

#[test]
fn a_circle_is_found() {
    let names = behind_crate("use crate::{a::{x, y}, b};\nuse crate::c::z;");
    assert_eq!(names, ["a", "b", "c"].map(String::from).into());
    let one = |others: &[&str]| others.iter().map(ToString::to_string).collect();
    let named = [("a", one(&["b"])), ("b", one(&["c"])), ("c", one(&["b"])), ("d", one(&[]))];
    let circles = in_circles(named.map(|(room, others)| (room.to_string(), others)).into());
    assert!(circles.contains_key("b") && circles.contains_key("c") && !circles.contains_key("d"));
}
