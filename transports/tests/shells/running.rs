//! A script runs as in a login shell, and its output arrives.

use bytes::Bytes;
use states::{RunOrder, Signal};
use transports::delivery;

use crate::{
    local::{Local, Surroundings},
    steps::{
        facts, follow, follow_measured, has_accounting, noise, order, read, run, run_id, start,
        text,
    },
};

pub(crate) async fn output_is_exact_and_in_order(local: Local) {
    let facts = facts(&local).await;
    let script = "i=0; while [ $i -lt 200 ]; do echo \"out $i\"; echo \"err $i\" >&2; i=$((i+1)); done; printf 'no newline at the end'";
    let (output, code, total) = run(&local, &facts, "1", script).await;
    let expected: String = (0..200).map(|i| format!("out {i}\nerr {i}\n")).collect::<String>()
        + "no newline at the end";
    assert_eq!(text(&output), expected);
    assert_eq!((code, total), (0, expected.len() as u64));
}

pub(crate) async fn exit_codes(local: Local) {
    let facts = facts(&local).await;
    for wanted in [0, 1, 42, 127, 255] {
        let (_, code, _) =
            run(&local, &facts, &format!("code-{wanted}"), format!("exit {wanted}")).await;
        assert_eq!(code, wanted);
    }
}

/// SIGINT as well: a shell's background processes would ignore it for ever.
/// (And so would these, if the tests themselves were started as such.)
pub(crate) async fn death_by_signal(local: Local) {
    let facts = facts(&local).await;
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("INT", 2), ("PIPE", 13), ("HUP", 1)] {
        if ignored_here(number) {
            continue;
        }
        let (output, code, _) =
            run(&local, &facts, signal, format!("echo before; kill -{signal} $$; echo after"))
                .await;
        assert_eq!((text(&output), code), ("before\n", 128 + number), "{signal}");
    }
}

fn ignored_here(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    // This process's own SIGPIPE is ignored by Rust's start-up code, and given back to its
    // children.
    signal != 13 && u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

/// Before the exit status, also of a run that is attached to.
pub(crate) async fn what_the_container_has_used_is_reported(local: Local) {
    let facts = facts(&local).await;
    let (_, used) = follow_measured(start(&local, &facts, "1", "echo out").await).await.unwrap();
    assert_eq!(used.is_some(), has_accounting(), "{used:?}");
    let attached = delivery::attach(&local, &facts, &order("1"), 0).await.unwrap();
    let ((output, code, _), used) = follow_measured(attached).await.unwrap();
    assert_eq!((text(&output), code), ("out\n", 0));
    assert_eq!(used.is_some(), has_accounting(), "{used:?}");
}

pub(crate) async fn script_without_output(local: Local) {
    let facts = facts(&local).await;
    assert_eq!(run(&local, &facts, "empty", "").await, (Vec::new(), 0, 0));
    assert_eq!(run(&local, &facts, "quiet", "exit 3").await, (Vec::new(), 3, 0));
}

pub(crate) async fn five_megabyte_script(local: Local) {
    let facts = facts(&local).await;
    let line = format!(": {}\n", "x".repeat(1000));
    let script = line.repeat(5 * 1024) + "cat \"$0\"";
    let (output, code, _) = run(&local, &facts, "large", script.as_str()).await;
    assert!(
        output == script.as_bytes(),
        "{} bytes came back, {} were sent",
        output.len(),
        script.len()
    );
    assert_eq!(code, 0);
}

pub(crate) async fn binary_output(local: Local) {
    let facts = facts(&local).await;
    let bytes: Vec<u8> = (0..=255).chain(noise(3_000_000)).chain([0, 0, b'\n', 0xff]).collect();
    std::fs::write(local.home().join("data"), &bytes).unwrap();
    let (output, _, total) = run(&local, &facts, "binary", "cat data; printf '\\000\\377'").await;
    assert!(
        output[..bytes.len()] == bytes && output[bytes.len()..] == [0, 0xff],
        "{} bytes, {total} told",
        output.len()
    );
}

pub(crate) async fn unicode(local: Local) {
    let facts = facts(&local).await;
    let (output, _, _) = run(
        &local,
        &facts,
        "unicode",
        "x='grüße 🦀 日本'; echo \"$x\"; printf '\\303'; printf '\\244'",
    )
    .await;
    assert_eq!(text(&output), "grüße 🦀 日本\nä");
}

pub(crate) async fn stdin_is_empty(local: Local) {
    let facts = facts(&local).await;
    let (output, code, _) = run(
        &local,
        &facts,
        "stdin",
        "echo one\ncat\nif read -r line; then echo \"read: $line\"; fi\necho two\n",
    )
    .await;
    assert_eq!((text(&output), code), ("one\ntwo\n", 0));
}

pub(crate) async fn first_lines(local: Local) {
    let facts = facts(&local).await;
    let (_, code, _) = run(&local, &facts, "argument", "#!/bin/sh -e\nfalse\nexit 0\n").await;
    assert_eq!(code, 1, "-e of the first line counts");
    let (output, _, _) = run(&local, &facts, "env", "#!/usr/bin/env sh\necho by env\n").await;
    assert_eq!(text(&output), "by env\n");
}

pub(crate) async fn the_environment_is_the_login_shells(mut local: Local) {
    local.startup = "umask 027; ".to_owned();
    local.env.insert("FROM_LOGIN".to_owned(), "kept it's".to_owned());
    let facts = facts(&local).await;
    let (output, _, _) =
        run(&local, &facts, "surroundings", "pwd; umask; echo \"$FROM_LOGIN\"; echo $#").await;
    assert_eq!(text(&output), format!("{}\n0027\nkept it's\n0\n", local.home().display()));
}

/// The script continues only after its first line has arrived here.
pub(crate) async fn output_comes_while_it_runs(local: Local) {
    for (name, by_tail) in [("told", true), ("polled", false)] {
        let mut facts = facts(&local).await;
        facts.follows_with_tail &= by_tail;
        let script = format!("echo one; until [ -e go-{name} ]; do sleep 0.01; done; echo two");
        let mut run = start(&local, &facts, name, script).await;
        assert_eq!(text(&read(&mut run, 4).await), "one\n");
        std::fs::write(local.home().join(format!("go-{name}")), "").unwrap();
        assert_eq!(follow_rest(run).await, ("two\n".to_owned(), 0));
    }
}

pub(crate) async fn startup_file_output_is_not_script_output(mut local: Local) {
    local.startup =
        "echo 'Welcome to the machine'; echo 'stdin: is not a tty' >&2; printf 'no newline'; "
            .to_owned();
    let facts = facts(&local).await;
    let (output, code, total) = run(&local, &facts, "quiet", "echo mine; exit 7").await;
    assert_eq!((text(&output), code, total), ("mine\n", 7, 5));
    delivery::signal(&local, &facts, &order("quiet"), Signal::Term).await.unwrap();
}

pub(crate) async fn forgotten_runs_are_removed(local: Local) {
    let facts = facts(&local).await;
    run(&local, &facts, "first", "echo 1").await;
    assert!(std::path::Path::new(&facts.run_dir).join("first").is_dir());
    let next = RunOrder { forget: Some(run_id("first")), ..order("second") };
    follow(delivery::start(&local, &facts, &next, Bytes::from_static(b"echo 2")).await.unwrap())
        .await
        .unwrap();
    let left: Vec<_> = std::fs::read_dir(&facts.run_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["second"]);
}

pub(crate) async fn probed_facts_are_correct(local: Local) {
    let facts = facts(&local).await;
    let gnu = local.surroundings() != Surroundings::BusyboxAlone
        && local.surroundings() != Surroundings::Least;
    assert!(!facts.follows_with_tail || gnu);
    assert_eq!(facts.has_setsid, local.has_setsid());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&facts.run_dir).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o700, "{}", facts.run_dir);
    assert!(facts.run_dir.starts_with(local.path("tmp").to_str().unwrap()), "{}", facts.run_dir);
}

/// `Started` has been read already.
async fn follow_rest(mut run: delivery::Followed) -> (String, i32) {
    use states::{Run as _, RunEvent};
    let mut output = Vec::new();
    loop {
        match run.next().await.unwrap() {
            RunEvent::Output(bytes) => output.extend_from_slice(&bytes),
            RunEvent::Exited { code, .. } => return (String::from_utf8(output).unwrap(), code),
            RunEvent::Started | RunEvent::Measured(_) => {}
        }
    }
}

pub(crate) async fn temporary_files_are_deleted(local: Local) {
    let facts = facts(&local).await;
    let (output, code, _) = run(
        &local,
        &facts,
        "run",
        "[ -n \"$TMPDIR\" ] || exit 1; rm -rf \"$TMPDIR\"/*; echo after; exit 5",
    )
    .await;
    assert_eq!((text(&output), code), ("after\n", 5));
}
