//! The folders of `src` and its single files are layers: none uses another that uses it, directly or
//! through others. Code of tests does not count.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

#[test]
fn no_two_folders_use_each_other() {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !["lib", "bin"].contains(&name.as_str()) {
            read(&path, uses.entry(name).or_insert_with(BTreeSet::new));
        }
    }
    assert!(uses["service"].contains("stages") && uses["stages"].contains("host"), "{uses:#?}");
    for (name, used) in &mut uses {
        used.remove(name);
    }
    // The lowest layers are taken away until none is left.
    let mut layers = 0;
    while !uses.is_empty() {
        let upper: BTreeSet<String> = uses
            .iter()
            .filter(|(_, used)| !used.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        assert!(upper.len() < uses.len(), "these use each other: {uses:#?}");
        uses.retain(|name, _| upper.contains(name));
        uses.values_mut().for_each(|used| used.retain(|name| upper.contains(name)));
        layers += 1;
    }
    println!("{layers} layers");
}

/// Adds the modules of the crate that the files at this path name.
fn read(path: &Path, used: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read(&entry.unwrap().path(), used);
        }
    } else if path.extension().is_some_and(|end| end == "rs") && !is_of_tests(path) {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        for (at, prefix) in code.match_indices("crate::") {
            used.extend(named(&code[at + prefix.len()..]));
        }
    }
}

fn is_of_tests(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().unwrap().to_string_lossy().ends_with("tests")
}

/// Returns the modules that come first in this path, or in this group of paths.
fn named(paths: &str) -> Vec<String> {
    let word = |path: &str| -> String {
        path.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = paths.strip_prefix('{') else { return vec![word(paths)] };
    let mut depth = 0;
    let is_end = |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    group
        .split("};")
        .next()
        .unwrap()
        .split(is_end)
        .map(word)
        .filter(|name| !name.is_empty())
        .collect()
}
