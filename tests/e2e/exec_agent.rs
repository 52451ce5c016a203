//! ECS Exec with an agent as strict and as slow as AWS's own: it runs two sessions, queues a third,
//! and blocks for good on a fourth.

use std::{
    fs,
    time::{Duration, Instant},
};

use local_cluster::{AgentRules, ExecSettings, Settings};
use serde_json::json;

use crate::{
    cluster::{Cluster, Local},
    eventually,
    replay_act::id,
    runner::{Alone, Job},
    session::Terminal,
};

fn real() -> Cluster {
    let exec = ExecSettings { agent: AgentRules::real(), ..ExecSettings::default() };
    let mut local = Local::here(Settings { exec, ..Settings::default() });
    local.transport = "ecs-exec";
    Cluster::Local(local)
}

/// Its stages follow each other faster than the agent frees its slots.
#[test]
fn a_whole_job() {
    let cluster = real();
    let job = Job::on(&cluster);
    let failure = json!({ "output": "write /tmp/x: no space left on device", "times": 1 });
    cluster.as_local().set_faults(&json!({ "exec": { "ends_at_start": failure } }));
    job.prepare();
    assert!(
        job.log().contains("before a command could be run: write /tmp/x: no space left on device")
            && !job.log().contains("-----ERROR")
    );
    let before = cluster.as_local().calls("ExecuteCommand");
    for stage in ["prepare_script", "get_sources", "step_script", "archive_cache"] {
        let run = job.run(stage, format!("echo {stage}"));
        assert_eq!(
            (run.code, String::from_utf8_lossy(&run.stdout).as_ref()),
            (0, format!("{stage}\n").as_str()),
            "{}",
            run.stderr
        );
    }
    let large =
        job.run("build_script", format!("seq 1 30000 | cksum\nexit 3\n# {}", "x".repeat(300_000)));
    assert_eq!(
        (large.script_code.as_deref(), large.stdout.as_slice()),
        (Some("3"), &b"3957459851 168894\n"[..]),
        "{}",
        large.stderr
    );
    let calls = |action| cluster.as_local().calls(action);
    assert_eq!(
        (calls("ExecuteCommand") - before, calls("TerminateSession"), calls("DescribeSessions")),
        (if job.is_hosted() { 0 } else { 5 }, 0, 0),
        "a session for each, or the one that the service keeps"
    );
    assert_eq!(job.files(".session").is_empty(), !job.is_hosted());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// A stage's session waits in the agent's queue, its driver is killed, and the next driver finds
/// the container full. Another request would block the agent before a terminal is closed.
#[test]
fn two_terminals_delay_a_stage_until_one_closes() {
    let cluster = real();
    let job = Job::on(&cluster).alone(Alone::OpensSessions);
    job.prepare();
    let terminals = [1, 2].map(|_| {
        let terminal = Terminal::open(&job, 80, &[], &["shell", &id(&job)]);
        terminal.press("echo here-$((2 + 2))\r");
        terminal.shows("here-4");
        terminal
    });
    let script = job.script("echo ran; exit 5").display().to_string();
    let arguments = ["run", script.as_str(), "build_script"];
    let mut killed = job.spawn(&arguments);
    eventually("a session is granted to the stage", || {
        job.files(".session")
            .first()
            .and_then(|path| fs::read_to_string(path).ok())
            .is_some_and(|ledger| ledger.contains("\nopen "))
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    let asked = cluster.as_local().calls("ExecuteCommand");
    let waiting = job.spawn(&arguments);
    eventually("it is said what is waited for", || {
        job.log().contains("job log: Waiting: 2 sessions are open")
    });
    // Longer than the agent waits for a slot before it blocks.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert_eq!(cluster.as_local().calls("ExecuteCommand"), asked, "a session was asked for");
        std::thread::sleep(Duration::from_millis(100));
    }
    for terminal in terminals {
        terminal.press("exit\r");
        assert_eq!(terminal.end().0, 0);
    }
    let ended = job.end(waiting);
    assert_eq!(
        (ended.script_code.as_deref(), ended.stdout.as_slice()),
        (Some("5"), &b"ran\n"[..]),
        "{}\n{}",
        ended.stderr,
        job.log()
    );
    assert!(
        ended.stderr.contains("Waiting: 2 sessions are open in the container"),
        "{}",
        ended.stderr
    );
    assert_eq!(job.run("after_script", "echo after").stdout, b"after\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
