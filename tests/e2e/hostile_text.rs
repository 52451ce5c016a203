//! Texts of projects, of containers and of those who stop tasks: they cannot forge lines or control
//! a reader's terminal.

use std::{
    fs,
    process::{Command, Output},
    sync::{Arc, atomic::Ordering},
};

use serde_json::json;
use states::foreign_text::tame;

use crate::{
    cluster::Cluster,
    replay_act::replay,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

/// A line break and a forged line of the driver, a cleared screen, a title, C1 and bidirectional
/// controls.
const HOSTILE: &str =
    "evil\r\nfargate: forged\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\u{2066}";

/// Asserts that the text has only the driver's own lines, and no terminal controls.
fn assert_harmless(what: &str, text: &str) {
    for line in text.lines() {
        assert!(
            tame(line) == line && !line.starts_with("fargate: forged"),
            "{what}: {line:?} in {text:?}"
        );
    }
    assert!(!text.contains('\r'), "{what}: {text:?}");
}

fn texts(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_project_s_names_are_harmless_in_job_log_log_and_records() {
    for format in ["text", "json"] {
        let cluster = Cluster::local();
        let mut job = Job::on(&cluster);
        let file = fs::read_to_string(&job.config).unwrap();
        fs::write(
            &job.config,
            format!("LogFormat = \"{format}\"\n{file}").replacen(
                "[Fargate]\n",
                "[Fargate]\nAllowedTaskDefinitions = []\n",
                1,
            ),
        )
        .unwrap();
        job.set("CUSTOM_ENV_CI_JOB_NAME", HOSTILE);
        job.set("CUSTOM_ENV_CI_PROJECT_URL", &format!("https://gitlab.example/{HOSTILE}/project"));
        job.set("CUSTOM_ENV_CI_RUNNER_SHORT_TOKEN", HOSTILE);
        job.set("CUSTOM_ENV_CI_JOB_SERVICES", &json!([{ "name": HOSTILE }]).to_string());
        let config = job.stage(&["config"]);
        assert_eq!(config.code, 0, "{config:#?}");
        assert_harmless(
            "config",
            &format!("{}{}", String::from_utf8_lossy(&config.stdout), config.stderr),
        );
        job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", HOSTILE);
        let refused = job.stage(&["prepare"]);
        assert!(refused.code == BUILD_FAILURE && refused.stderr.contains("evil"), "{refused:#?}");
        assert_harmless("a refusal", &refused.stderr);
        job.unset("CUSTOM_ENV_FARGATE_TASK_DEFINITION");
        let prepared = job.stage(&["prepare"]);
        assert!(
            prepared.code == 0 && prepared.stderr.contains("does not start services (evil"),
            "{prepared:#?}"
        );
        assert_harmless("the job log", &prepared.stderr);
        // A script's own output is passed on unchanged.
        let run = job.run(HOSTILE, format!("printf '%s' '{HOSTILE}'"));
        assert_eq!((run.code, String::from_utf8_lossy(&run.stdout).as_ref()), (0, HOSTILE));
        assert_harmless("a stage", &run.stderr);
        let snapshot = job.snapshot();
        assert!(snapshot.contains("evil"), "{snapshot}");
        let record = states::Snapshot::parse(&snapshot).unwrap();
        let about = &record.job.header().about;
        for text in [&about.job_name, &about.project_url, &about.runner] {
            assert_harmless("a record", text);
            assert!(!text.contains('\n'), "{text:?}");
        }
        assert_harmless("the record's file", &snapshot);
        job.cleanup();
        let log = job.log();
        assert!(log.contains("evil"), "{log}");
        assert_harmless("the log", &log);
        for line in log.lines() {
            let is_whole = if format == "json" {
                line.starts_with('{') && line.ends_with('}')
            } else {
                line.starts_with("20")
            };
            assert!(is_whole, "not a line of the driver's: {line:?}");
        }
        cluster.assert_nothing_is_left(1);
    }
}

/// An older driver recorded names unchanged.
#[test]
fn names_in_old_records_are_harmless_in_reap_and_replay() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let mut record = states::Snapshot::parse(&job.snapshot()).unwrap();
    let states::AnyJob::Reachable(reachable) = &mut record.job else { unreachable!() };
    let about = &mut Arc::make_mut(&mut reachable.header).about;
    about.project_url = format!("https://gitlab.example/{HOSTILE}");
    about.job_name = HOSTILE.to_owned();
    job.edited.store(true, Ordering::Relaxed);
    fs::write(&path, record.to_ron().unwrap()).unwrap();
    for arguments in [&["list"][..], &["show", path.to_str().unwrap()], &["list", "--json"]] {
        let shown = replay(&job).args(arguments).output().unwrap();
        assert!(shown.status.success() && texts(&shown).contains("evil"), "{shown:?}");
        assert_harmless(&arguments.join(" "), &texts(&shown));
    }
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned() + &reaped.stderr;
    assert!(said.contains("evil") && said.contains("jobs ended: 1"), "{said}");
    assert_harmless("reap", &said);
    assert_harmless("the log", &job.log());
    cluster.assert_nothing_is_left(1);
}

#[test]
fn stop_reasons_cannot_add_job_log_lines() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script("echo begun; sleep 600").display().to_string(),
        "build_script",
    ]);
    std::io::Read::read_exact(run.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let arn = cluster.as_local().get("/_tasks")[0]["arn"].as_str().unwrap().to_owned();
    cluster.ecs("StopTask", &json!({ "cluster": "local", "task": arn, "reason": HOSTILE }));
    let ended = job.end(run);
    assert!(ended.code == SYSTEM_FAILURE && ended.stderr.contains("evil"), "{ended:#?}");
    assert_harmless("the job log", &ended.stderr);
    job.cleanup();
    assert_harmless("the log", &job.log());
    assert_harmless("the record", &fs::read_to_string(&job.archived()[0]).unwrap());
    cluster.assert_nothing_is_left(1);
}

#[test]
fn output_of_try_is_harmless() {
    let tried = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(["--task-def", HOSTILE, "try", "fixtures/jobs/hello.sh"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = texts(&tried);
    assert!(!tried.status.success() && said.contains("evil"), "{said}");
    assert_harmless("try", &said);
}
