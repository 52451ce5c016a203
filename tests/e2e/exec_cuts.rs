//! ECS Exec's sessions end by AWS's limits and by network failures. The output continues at the
//! next byte.

use std::fs;

use serde_json::json;

use crate::{
    cluster::Cluster,
    eventually,
    runner::{Alone, Job},
};

/// Some 20 MB of lines, no two of them equal.
const LINES: u32 = 2_500_000;

/// Every session is cut so many milliseconds after it began, `times` times.
fn twenty_megabytes(how: &str, after_ms: u32, times: u32) {
    let cluster = Cluster::local_by_ecs_exec();
    let job = Job::on(&cluster);
    job.prepare();
    cluster.as_local().set_faults(
        &json!({ "exec": { "cut": { "how": how, "after_ms": after_ms, "times": times } } }),
    );
    let run = job.run(
        "build_script",
        format!("echo run >>\"$TMPDIR/runs\"\nseq 1 {LINES}\nwc -l <\"$TMPDIR/runs\"\nexit 7"),
    );
    assert_eq!(run.script_code.as_deref(), Some("7"), "{}\n{}", run.stderr, job.log());
    let mut at = 0;
    for number in 1..=LINES {
        let line = format!("{number}\n");
        assert!(run.stdout[at..].starts_with(line.as_bytes()), "line {number} is not at byte {at}");
        at += line.len();
    }
    assert_eq!(
        &run.stdout[at..],
        b"1\n",
        "the script ran once, and nothing comes after its output"
    );
    let left = cluster.as_local().get("/_faults")["exec"]["cut"]["times"].as_u64().unwrap_or(0);
    assert!(left < u64::from(times), "no session was cut");
    cluster.as_local().set_faults(&json!({}));
    assert_eq!(job.run("after_script", "echo after").stdout, b"after\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn repeated_resets_lose_no_output() {
    twenty_megabytes("reset", 1500, 6);
}

#[test]
fn repeated_closes_by_the_service_lose_no_output() {
    twenty_megabytes("bye", 1500, 6);
}

#[test]
#[ignore = "takes two minutes: a silent session is believed to be dead after 90 s. scripts/test runs it"]
fn silent() {
    twenty_megabytes("silence", 1500, 1);
}

/// A container has two slots and a queue of one: more killed drivers than that must not lock the
/// job out.
#[test]
fn killed_drivers_leave_no_session_behind() {
    const KILLS: usize = 5;
    let cluster = Cluster::local_by_ecs_exec();
    let job = Job::on(&cluster).alone(Alone::OpensSessions);
    job.prepare();
    assert_eq!(
        job.files(".session"),
        <[std::path::PathBuf; 0]>::default(),
        "prepare has ended its session"
    );
    let go = job.path("go");
    let script = job.script(format!(
        "echo begun; until [ -e '{}' ]; do sleep 0.05; done; exit 3",
        go.display()
    ));
    let arguments = ["run", script.to_str().unwrap(), "get_sources"];
    let mut last = String::new();
    for _ in 0..KILLS {
        let mut run = job.spawn(&arguments);
        eventually("the driver has opened a session", || {
            let noted = job
                .files(".session")
                .first()
                .and_then(|path| fs::read_to_string(path).ok())
                .unwrap_or_default();
            let noted = noted
                .lines()
                .rfind(|line| line.starts_with("open "))
                .unwrap_or_default()
                .to_owned();
            let another = !noted.is_empty() && noted != last;
            if another {
                last = noted;
            }
            another
        });
        run.kill().unwrap();
        run.wait().unwrap();
    }
    fs::write(&go, "").unwrap();
    let ended = job.stage(&arguments);
    assert_eq!(ended.script_code.as_deref(), Some("3"), "{ended:#?}\n{}", job.log());
    assert_eq!(
        cluster.as_local().calls("TerminateSession"),
        KILLS,
        "each by the process after it, and no other"
    );
    assert!(job.files(".session").is_empty());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Sessions that were opened without an answer would fill the container's slots, too. Their ids are
/// unknown.
#[test]
fn calls_without_an_answer_leave_no_session_behind() {
    const TIMES: usize = 5;
    let cluster = Cluster::local_by_ecs_exec();
    let job = Job::on(&cluster).alone(Alone::OpensSessions);
    job.prepare();
    cluster.as_local().set_faults(&json!({ "unanswered": { "ExecuteCommand": TIMES }, "throttle": { "TerminateSession": 1 } }));
    let run = job.run("build_script", "exit 3");
    assert_eq!(run.script_code.as_deref(), Some("3"), "{run:#?}\n{}", job.log());
    let ended = cluster.as_local().calls("TerminateSession");
    assert!(ended > TIMES, "each is ended, one of them at the second try: {ended}");
    assert!(job.files(".session").is_empty());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
