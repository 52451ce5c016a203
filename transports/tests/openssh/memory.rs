//! Measures memory while streaming, in a process that does nothing else.

use std::process::Command;

/// Set in that process.
const ALONE: &str = "FARGATE_TEST_ALONE";
/// The limit. The test harness and a debug build take part of it; the test shows that output does
/// not accumulate.
const LIMIT_KIB: u64 = 40 * 1024;

/// Checks this process's peak, if it is one that runs a single test for this purpose.
pub(crate) fn is_small_if_alone() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak resident memory: {peak} KiB");
    assert!(peak < LIMIT_KIB, "{peak} KiB at most, for 300 MB of output");
}

#[test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
fn stays_small() {
    let this = std::env::current_exe().unwrap();
    let alone = Command::new(this)
        .args(["--exact", "streams_300_megabytes", "--ignored", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && said.contains("peak resident memory"),
        "{said}{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}
