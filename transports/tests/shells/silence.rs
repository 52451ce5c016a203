//! While a script is silent, the container is idle; its end is still noticed.

use std::{path::PathBuf, time::Duration};

use states::{RunError, ShellFacts};

use crate::{
    local::{By, Local},
    steps::{attach, facts, follow, kill, read, run, runs, start, text, until},
};

/// Records each `sleep` that the protocol starts, except the guard of a terminal's session, which
/// sleeps for minutes.
pub(crate) fn record_naps(local: &mut Local) -> PathBuf {
    let record = local.path("naps");
    std::fs::write(&record, "").unwrap();
    let sleep = crate::local::program("sleep");
    let recorder = format!(
        "case $1 in 0*) echo nap >>'{}' ;; esac\nexec '{}' \"$@\"",
        record.display(),
        sleep.display()
    );
    local.add_program("sleep", &recorder);
    record
}

/// Waits for a second in which nothing was recorded.
pub(crate) async fn rests(record: &std::path::Path) {
    let size = || std::fs::metadata(record).unwrap().len();
    let rested = async {
        loop {
            let before = size();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if size() == before {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), rested)
        .await
        .expect("the supervisor waits without looking again and again");
}

/// Whether the container announces writes to a file.
pub(crate) fn announces(local: &Local, facts: &ShellFacts) -> bool {
    facts.follows_with_tail || local.has_program("inotifyd")
}

/// Returns a script that blocks until `go` is opened, without a process if `mkfifo` exists.
fn silent(local: &Local) -> String {
    let made = std::process::Command::new("mkfifo").arg(local.home().join("go")).status().unwrap();
    assert!(made.success());
    "echo one; read -r line <go; echo two; exit 3".to_owned()
}

fn go(local: &Local) {
    std::fs::OpenOptions::new().write(true).open(local.home().join("go")).unwrap();
}

pub(crate) async fn a_silent_script_costs_nothing(mut local: Local) {
    let naps = record_naps(&mut local);
    let facts = facts(&local).await;
    let script = silent(&local);
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    if announces(&local, &facts) {
        rests(&naps).await;
    }
    go(&local);
    assert_eq!(ends(run).await, Ok((b"two\n".to_vec(), 3, 8)));
}

/// Uses only the FIFO: `sleep` ends after the script, so that polling notices nothing.
pub(crate) async fn an_attached_end_is_noticed_without_polling(mut local: Local) {
    let naps = record_naps(&mut local);
    let facts = facts(&local).await;
    let script = silent(&local);
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    drop(run);
    let mut run = attach(&local, &facts, "run", 2).await;
    assert_eq!(text(&read(&mut run, 2).await), "e\n");
    if local.has_program("mkfifo") && announces(&local, &facts) {
        rests(&naps).await;
    }
    let mut second = attach(&local, &facts, "run", 3).await;
    assert_eq!(text(&read(&mut second, 1).await), "\n");
    go(&local);
    assert_eq!(ends(run).await, Ok((b"two\n".to_vec(), 3, 8)));
    assert_eq!(ends(second).await, Ok((b"two\n".to_vec(), 3, 8)));
}

pub(crate) async fn a_killed_wrapper_is_noticed_by_an_attached_run(local: Local) {
    let facts = facts(&local).await;
    let mut run = start(&local, &facts, "run", "echo $$; exec sleep 1000").await;
    let script = read(&mut run, 2).await;
    drop(run);
    let mut run = attach(&local, &facts, "run", 0).await;
    read(&mut run, script.len()).await;
    let pid = std::fs::read_to_string(format!("{}/run/pid", facts.run_dir)).unwrap();
    kill("KILL", pid.split(' ').nth(1).unwrap());
    let lost = ends(run).await;
    assert!(matches!(lost, Err(RunError::NoStatus(_))), "{lost:?}");
    kill("KILL", text(&script).trim());
}

pub(crate) async fn a_background_process_does_not_hold_an_attached_run(local: Local) {
    let facts = facts(&local).await;
    silent(&local);
    let mut run =
        start(&local, &facts, "run", "sleep 1000 & echo $!; read -r line <go; exit 5").await;
    let daemon = text(&read(&mut run, 2).await).trim().to_owned();
    drop(run);
    let mut run = attach(&local, &facts, "run", 0).await;
    read(&mut run, daemon.len() + 1).await;
    go(&local);
    assert_eq!(ends(run).await.map(|(_, code, _)| code), Ok(5));
    assert!(runs(&daemon), "it was left alone");
    kill("KILL", &daemon);
}

/// A script must not inherit descriptors of the supervisor or the wrapper: a process that outlives
/// it would hold them open.
pub(crate) async fn a_script_inherits_no_descriptor(local: Local) {
    let facts = facts(&local).await;
    let run = start(
        &local,
        &facts,
        "run",
        "read -r pid rest </proc/self/stat; cd /proc/$pid/fd; for fd in *; do echo $fd; done",
    )
    .await;
    let (output, ..) = follow(run).await.unwrap();
    let all: Vec<u32> = text(&output).lines().map(|line| line.parse().unwrap()).collect();
    // Shells use descriptors from 10 on for the script and for saved ones, and close them for
    // children.
    let low: Vec<u32> = all.into_iter().filter(|fd| *fd < 10).collect();
    assert!(
        low.starts_with(&[0, 1, 2]) && low.len() <= 4,
        "{low:?}: beside its three, at most the script itself"
    );
}

/// The supervisor and its children end while the script is silent, and the script continues.
pub(crate) async fn a_lost_connection_leaves_no_process(local: Local) {
    // In a terminal, its end does that. Without setsid, the script is in the observed group.
    if local.by() == By::Terminal || !local.has_setsid() {
        return;
    }
    let facts = facts(&local).await;
    let script = silent(&local);
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    for _ in 0..2 {
        let group = *local.groups.lock().unwrap().last().unwrap();
        assert!(!of_group(group).is_empty());
        drop(run);
        until("the supervisor and what it started are gone", || of_group(group).is_empty()).await;
        run = attach(&local, &facts, "run", 0).await;
        assert_eq!(text(&read(&mut run, 4).await), "one\n");
    }
    go(&local);
    assert_eq!(ends(run).await, Ok((b"two\n".to_vec(), 3, 8)));
}

pub(crate) async fn runs_end_without_a_fifo(mut local: Local) {
    local.replaced = vec![("mkfifo", "no-mkfifo")];
    let facts = facts(&local).await;
    let script = silent(&local);
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    assert!(!std::path::Path::new(&facts.run_dir).join("run/alive").exists());
    drop(run);
    let mut run = attach(&local, &facts, "run", 0).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    go(&local);
    assert_eq!(ends(run).await, Ok((b"two\n".to_vec(), 3, 8)));
}

/// A shell that sets an environment variable sets it for its children, too.
pub(crate) async fn environment_is_unchanged(mut local: Local) {
    let names: Vec<String> = ('a'..='z')
        .map(String::from)
        .chain(["code", "total", "run", "size", "line"].map(str::to_owned))
        .collect();
    for name in &names {
        local.env.insert(name.clone(), format!("kept-{name}"));
    }
    let facts = facts(&local).await;
    let script: String = names.iter().map(|name| format!("echo \"${name}\"\n")).collect();
    let (output, ..) = run(&local, &facts, "run", script).await;
    let expected: String = names.iter().map(|name| format!("kept-{name}\n")).collect();
    assert_eq!(text(&output), expected);
}

/// Follows the rest of a run that has been read from before.
async fn ends(mut run: transports::delivery::Followed) -> Result<crate::steps::Outcome, RunError> {
    use states::{Run as _, RunEvent};
    let mut output = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), run.next())
            .await
            .expect("the run goes on")?;
        match next {
            RunEvent::Output(bytes) => output.extend_from_slice(&bytes),
            RunEvent::Exited { code, total } => return Ok((output, code, total)),
            RunEvent::Started | RunEvent::Measured(_) => {}
        }
    }
}

/// Returns the processes of a group, without zombies.
pub(crate) fn of_group(group: u32) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_zombie = fields.next()? == "Z";
        let of_group = fields.nth(1)?.parse() == Ok(group);
        (of_group && !is_zombie).then_some(stat)
    });
    processes.collect()
}
