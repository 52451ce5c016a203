//! A script does not depend on its followers.

use bytes::Bytes;
use states::{RunError, Signal};
use transports::delivery;

use crate::{
    local::Local,
    steps::{attach, facts, follow, kill, noise, order, read, run, runs, start, text, until},
};

pub(crate) async fn background_process_does_not_hold_the_run(local: Local) {
    let facts = facts(&local).await;
    let (output, code, _) = run(&local, &facts, "daemon", "sleep 1000 & echo $!; exit 5").await;
    let daemon = text(&output).trim();
    assert_eq!(code, 5);
    assert!(runs(daemon), "it was left alone");
    kill("KILL", daemon);
}

pub(crate) async fn attach_at_an_offset(local: Local) {
    let mut facts = facts(&local).await;
    let bytes = noise(300_000);
    std::fs::write(local.home().join("data"), &bytes).unwrap();
    run(&local, &facts, "run", "cat data; exit 9").await;
    let by_tail = facts.follows_with_tail;
    for follows_with_tail in [by_tail, false] {
        facts.follows_with_tail = follows_with_tail;
        for from in [0, 1, 65_535, 65_536, 65_537, 299_999, 300_000] {
            let (output, code, total) =
                follow(attach(&local, &facts, "run", from as u64).await).await.unwrap();
            assert!(output == bytes[from..], "from {from}: {} bytes", output.len());
            assert_eq!((code, total), (9, 300_000));
        }
    }
}

pub(crate) async fn second_start_is_an_attach(local: Local) {
    let facts = facts(&local).await;
    let script = "echo once >>executions; echo output; exit 4";
    let first = run(&local, &facts, "same", script).await;
    let second = run(&local, &facts, "same", script).await;
    assert_eq!(first, (b"output\n".to_vec(), 4, 7));
    assert_eq!(first, second);
    assert_eq!(std::fs::read_to_string(local.home().join("executions")).unwrap(), "once\n");
}

pub(crate) async fn two_starts_at_once(local: Local) {
    let facts = facts(&local).await;
    let script = "echo once >>executions; echo output; sleep 0.2; exit 4";
    let (first, second) =
        tokio::join!(run(&local, &facts, "same", script), run(&local, &facts, "same", script));
    assert_eq!(first, (b"output\n".to_vec(), 4, 7));
    assert_eq!(first, second);
    assert_eq!(std::fs::read_to_string(local.home().join("executions")).unwrap(), "once\n");
}

pub(crate) async fn term_reaches_the_whole_group(local: Local) {
    let (outcome, children) = signalled(&local, Signal::Term).await;
    assert_eq!(outcome, Ok(128 + 15));
    for child in &children {
        until("every process of the script ends", || !runs(child)).await;
    }
}

pub(crate) async fn kill_reaches_the_whole_group(local: Local) {
    let (outcome, children) = signalled(&local, Signal::Kill).await;
    if !local.has_setsid() {
        // Without setsid, the wrapper is in the same group.
        assert!(matches!(outcome, Err(RunError::NoStatus(_))), "{outcome:?}");
    } else {
        assert_eq!(outcome, Ok(128 + 9));
    }
    for child in &children {
        until("every process of the script ends", || !runs(child)).await;
    }
}

/// Runs a script that has a child and a grandchild, and signals it. Returns the exit status and the
/// pids.
async fn signalled(local: &Local, signal: Signal) -> (Result<i32, RunError>, Vec<String>) {
    let facts = facts(local).await;
    let script = "sh -c 'sleep 1000 & echo $!; wait' & echo $!; wait";
    let mut run = start(local, &facts, "group", script).await;
    let mut output = Vec::new();
    while output.iter().filter(|b| **b == b'\n').count() < 2 {
        output.extend(read(&mut run, 1).await);
    }
    delivery::signal(local, &facts, &order("group"), signal).await.unwrap();
    drop(run);
    let outcome = follow(attach(local, &facts, "group", output.len() as u64).await).await;
    (outcome.map(|(_, code, _)| code), text(&output).lines().map(str::to_owned).collect())
}

pub(crate) async fn signals_after_the_end(local: Local) {
    let facts = facts(&local).await;
    run(&local, &facts, "over", "true").await;
    delivery::signal(&local, &facts, &order("over"), Signal::Term).await.unwrap();
    let unknown = delivery::signal(&local, &facts, &order("never"), Signal::Term).await;
    assert!(matches!(unknown, Err(RunError::Unknown(_))), "{unknown:?}");
}

/// A driver was killed while its start was in transit, and the next driver learns that there is no
/// such run. When the start arrives after all, its script must not run.
pub(crate) async fn signal_claims_a_start_in_flight(local: Local) {
    let facts = facts(&local).await;
    let unknown = delivery::signal(&local, &facts, &order("late"), Signal::Term).await;
    assert!(matches!(unknown, Err(RunError::Unknown(_))), "{unknown:?}");
    let late = follow(start(&local, &facts, "late", "echo ran >executions").await).await;
    assert!(late.is_err(), "{late:?}");
    assert!(!local.home().join("executions").exists(), "it ran after all");
    // The next run is not affected.
    run(&local, &facts, "next", "echo ran >>executions").await;
    assert_eq!(std::fs::read_to_string(local.home().join("executions")).unwrap(), "ran\n");
}

/// The opposite order: the start came first, and has not started its script yet.
pub(crate) async fn signal_reaches_a_start_that_came_first(local: Local) {
    let facts = facts(&local).await;
    let run = start(&local, &facts, "first", "sleep 1000").await;
    let place = std::path::Path::new(&facts.run_dir).join("first");
    until("the start has made its directory", || place.exists()).await;
    delivery::signal(&local, &facts, &order("first"), Signal::Term).await.unwrap();
    // Without setsid, the connection's own shell is in the signalled group.
    drop(run);
    let ended = follow(attach(&local, &facts, "first", 0).await).await;
    assert!(matches!(ended, Ok((_, 143, _))), "{ended:?}");
}

pub(crate) async fn dropped_connection_resumes_at_the_next_byte(local: Local) {
    let mut facts = facts(&local).await;
    let bytes = noise(2_000_000);
    std::fs::write(local.home().join("data"), &bytes).unwrap();
    let mut output = read(
        &mut start(
            &local,
            &facts,
            "cut",
            "cat data; until [ -e go ]; do sleep 0.01; done; cat data; exit 6",
        )
        .await,
        100_000,
    )
    .await;
    // Dropped twice, to cover both ways of following.
    facts.follows_with_tail = false;
    let more = read(&mut attach(&local, &facts, "cut", output.len() as u64).await, 1).await;
    output.extend(more);
    std::fs::write(local.home().join("go"), "").unwrap();
    let (rest, code, total) =
        follow(attach(&local, &facts, "cut", output.len() as u64).await).await.unwrap();
    output.extend(rest);
    assert!(output == [&bytes[..], &bytes[..]].concat(), "{} bytes", output.len());
    assert_eq!((code, total), (6, 4_000_000));
}

/// Nothing is read until the script has ended.
pub(crate) async fn slow_reader(local: Local) {
    let facts = facts(&local).await;
    let bytes = noise(5_000_000);
    std::fs::write(local.home().join("data"), &bytes).unwrap();
    let run = start(&local, &facts, "slow", "cat data; echo >ended").await;
    until("the script ends without a reader", || local.home().join("ended").exists()).await;
    let (output, code, _) = follow(run).await.unwrap();
    assert!(output == bytes, "{} bytes", output.len());
    assert_eq!(code, 0);
}

pub(crate) async fn killed_supervisor(local: Local) {
    let facts = facts(&local).await;
    let script = "echo one; until [ -e go ]; do sleep 0.01; done; echo two; exit 8";
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    let group = *local.groups.lock().unwrap().last().unwrap();
    kill("KILL", &format!("-{group}"));
    let lost = follow(run).await;
    assert!(matches!(lost, Err(RunError::ConnectionLost(_))), "{lost:?}");
    std::fs::write(local.home().join("go"), "").unwrap();
    let rest = follow(attach(&local, &facts, "run", 4).await).await;
    if !local.has_setsid() {
        // Without setsid, the script was in the same group.
        assert!(matches!(rest, Err(RunError::NoStatus(_))), "{rest:?}");
    } else {
        assert_eq!(rest, Ok((b"two\n".to_vec(), 8, 8)));
    }
}

pub(crate) async fn killed_wrapper(local: Local) {
    let facts = facts(&local).await;
    let mut run = start(&local, &facts, "run", "echo $$; sleep 1000").await;
    let script = read(&mut run, 2).await;
    let pid = std::fs::read_to_string(format!("{}/run/pid", facts.run_dir)).unwrap();
    kill("KILL", pid.split(' ').nth(1).unwrap());
    let lost = follow(run).await;
    assert!(matches!(lost, Err(RunError::NoStatus(_))), "{lost:?}");
    let lost = follow(attach(&local, &facts, "run", 0).await).await;
    assert!(matches!(lost, Err(RunError::NoStatus(_))), "{lost:?}");
    delivery::signal(&local, &facts, &order("run"), Signal::Term).await.unwrap();
    until("what is left of the script can be ended", || !runs(text(&script).trim())).await;
}

/// A background process may write after the script's end: that is harmless, whether it is read or
/// not.
pub(crate) async fn output_after_the_end(local: Local) {
    let facts = facts(&local).await;
    let script = Bytes::from_static(
        b"(until [ -e go ]; do sleep 0.01; done; echo late) & echo early; exit 2",
    );
    let first = follow(delivery::start(&local, &facts, &order("run"), script).await.unwrap()).await;
    assert_eq!(first, Ok((b"early\n".to_vec(), 2, 6)));
    std::fs::write(local.home().join("go"), "").unwrap();
    until("the late line", || {
        std::fs::metadata(format!("{}/run/out", facts.run_dir)).unwrap().len() == 11
    })
    .await;
    let (output, code, total) = follow(attach(&local, &facts, "run", 0).await).await.unwrap();
    assert!(text(&output) == "early\n" || text(&output) == "early\nlate\n", "{output:?}");
    assert_eq!((code, total), (2, output.len() as u64));
    assert_eq!(follow(attach(&local, &facts, "run", 11).await).await, Ok((Vec::new(), 2, 11)));
}
