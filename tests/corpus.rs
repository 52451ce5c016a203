//! Every file of the fuzzers' corpora through the fuzzers' own entries, on any toolchain: what was
//! found once stays mended.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{fs, path::Path};

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

fn every_file(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for file in fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display())) {
        let path = file.unwrap().path();
        // Shown when it panics.
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{} is empty", corpus.display());
}

#[test]
fn snapshots() {
    every_file("snapshots", snapshots::run);
}

#[test]
fn configurations() {
    every_file("config", config::run);
}

#[test]
fn replies_of_the_delivery_protocol() {
    every_file("delivery", delivery::run);
}

#[test]
fn messages_of_a_data_channel() {
    every_file("data_channel", data_channel::run);
}

#[test]
fn answers_of_ecs() {
    every_file("ecs_answers", ecs_answers::run);
}

#[test]
fn answers_of_ec2() {
    every_file("ec2_answers", ec2_answers::run);
}
