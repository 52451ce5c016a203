//! Runs every input of the fuzzers' corpora through the fuzzers' own entries, on any toolchain: a
//! fixed bug stays fixed.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

#[path = "../fuzz/entries/config.rs"]
mod config;
#[path = "../fuzz/entries/data_channel.rs"]
mod data_channel;
#[path = "../fuzz/entries/delivery.rs"]
mod delivery;
#[path = "../fuzz/entries/ec2_answers.rs"]
mod ec2_answers;
#[path = "../fuzz/entries/ecs_answers.rs"]
mod ecs_answers;
#[path = "../fuzz/entries/snapshots.rs"]
mod snapshots;

/// Runs the inputs written by hand, `corpus/TARGET/*`, and those that a fuzzer found, in
/// `corpus/TARGET.tar`.
fn run_all(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let folder = corpus.join(target);
    let mut written = 0;
    for file in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = file.unwrap().path();
        // Printed if it panics.
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        written += 1;
    }
    assert!(written > 0, "{} is empty", folder.display());

    let archive = corpus.join(format!("{target}.tar"));
    let file = File::open(&archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    let mut found = 0;
    for entry in tar::Archive::new(file).entries().unwrap() {
        let mut entry = entry.unwrap();
        println!("{}: {}", archive.display(), entry.path().unwrap().display());
        let mut input = Vec::new();
        entry.read_to_end(&mut input).unwrap();
        run(&input);
        found += 1;
    }
    assert!(found > 0, "{} is empty", archive.display());
}

#[test]
fn snapshots() {
    run_all("snapshots", snapshots::run);
}

#[test]
fn configurations() {
    run_all("config", config::run);
}

#[test]
fn replies_of_the_delivery_protocol() {
    run_all("delivery", delivery::run);
}

#[test]
fn messages_of_a_data_channel() {
    run_all("data_channel", data_channel::run);
}

#[test]
fn answers_of_ecs() {
    run_all("ecs_answers", ecs_answers::run);
}

#[test]
fn answers_of_ec2() {
    run_all("ec2_answers", ec2_answers::run);
}
