//! Steps that cases share.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use states::{Run as _, RunError, RunEvent, RunId, RunOrder, ShellFacts, Usage};
use transports::delivery::{self, Followed};

use crate::local::Local;

/// The time limit for an expected event.
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn run_id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

pub(crate) fn order(name: &str) -> RunOrder {
    RunOrder {
        run: run_id(name),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    }
}

pub(crate) async fn facts(local: &Local) -> ShellFacts {
    delivery::probe(local, None).await.unwrap_or_else(|e| panic!("{e}: {:?}", e.cause))
}

/// Output, exit status and the reported size.
pub(crate) type Outcome = (Vec<u8>, i32, u64);

/// Follows to the end; every event after the first `Started` must be output.
pub(crate) async fn follow(run: Followed) -> Result<Outcome, RunError> {
    follow_measured(run).await.map(|(outcome, _)| outcome)
}

/// The same, and what the container has used, which it says once at most.
pub(crate) async fn follow_measured(
    mut run: Followed,
) -> Result<(Outcome, Option<Usage>), RunError> {
    let mut output = Vec::new();
    let mut started = false;
    let mut used = None;
    loop {
        match tokio::time::timeout(LONG, run.next()).await.expect("the run goes on")? {
            RunEvent::Started => started = true,
            RunEvent::Measured(usage) => assert_eq!(used.replace(usage), None),
            RunEvent::Output(bytes) => output.extend_from_slice(&bytes),
            RunEvent::Exited { code, total } => {
                assert!(started, "it ended and had not started");
                return Ok(((output, code, total), used));
            }
        }
    }
}

/// Starts a script under its own run id and follows it to the end.
pub(crate) async fn run(
    local: &Local,
    facts: &ShellFacts,
    name: &str,
    script: impl Into<Vec<u8>>,
) -> Outcome {
    follow(start(local, facts, name, script).await).await.unwrap()
}

pub(crate) async fn start(
    local: &Local,
    facts: &ShellFacts,
    name: &str,
    script: impl Into<Vec<u8>>,
) -> Followed {
    local.start(facts, &order(name), Bytes::from(script.into())).await.unwrap()
}

pub(crate) async fn attach(local: &Local, facts: &ShellFacts, name: &str, from: u64) -> Followed {
    delivery::attach(local, facts, &order(name), from).await.unwrap()
}

/// Reads until at least `size` bytes have come.
pub(crate) async fn read(run: &mut Followed, size: usize) -> Vec<u8> {
    let mut output = Vec::new();
    while output.len() < size {
        match tokio::time::timeout(LONG, run.next()).await.expect("the run goes on").unwrap() {
            RunEvent::Started | RunEvent::Measured(_) => {}
            RunEvent::Output(bytes) => output.extend_from_slice(&bytes),
            RunEvent::Exited { .. } => {
                panic!("it ended after {} bytes, {size} were expected", output.len())
            }
        }
    }
    output
}

/// Polls until a condition holds.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    })
}

/// `kill -SIGNAL TARGET`; a group is a negative number.
pub(crate) fn kill(signal: &str, target: &str) {
    assert!(is_killed(signal, target), "kill -{signal} {target}");
}

/// As [`kill`], and returns whether there was anything to kill.
pub(crate) fn is_killed(signal: &str, target: &str) -> bool {
    let killed = std::process::Command::new("/bin/sh")
        .args(["-c", "kill \"-$1\" \"$2\"", "kill", signal, target])
        .status()
        .unwrap();
    killed.success()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Returns bytes without a pattern, the same in every run.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(size)
    .collect()
}

/// Whether this machine's `/sys` has the accounting of a cgroup, of either version.
pub(crate) fn has_accounting() -> bool {
    let files =
        ["memory.peak", "memory/memory.max_usage_in_bytes", "cpu.stat", "cpuacct/cpuacct.usage"];
    files.iter().any(|file| std::path::Path::new("/sys/fs/cgroup").join(file).exists())
}
