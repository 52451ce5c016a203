//! Records for people: the driver's own log, and a job's record that survives a changed
//! configuration.

use std::fs;

use crate::{
    cluster::Cluster,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

/// Returns the lines of this level in the driver's log, as JSON.
fn lines(job: &Job, level: &str) -> Vec<serde_json::Value> {
    let lines = job
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect::<Vec<serde_json::Value>>();
    lines.into_iter().filter(|line| line["level"] == level).collect()
}

#[test]
fn the_log_records_the_end_of_every_stage_at_a_level_for_alerts() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let file = fs::read_to_string(&job.config)
        .unwrap()
        .replace("LogLevel = \"debug\"", "LogLevel = \"info\"\nLogFormat = \"json\"");
    fs::write(&job.config, file.replace("Cluster = \"local\"", "Cluster = \"other\"")).unwrap();
    assert_eq!(job.stage(&["prepare"]).code, SYSTEM_FAILURE);
    let errors = lines(&job, "ERROR");
    let [refused] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(
        (refused["span"]["stage"].as_str(), refused["fields"]["verdict"].as_str()),
        (Some("prepare"), Some("system failure"))
    );
    assert!(
        refused["fields"]["message"].as_str().unwrap().contains("cluster other does not exist"),
        "{refused:#?}"
    );
    job.cleanup_as_gitlab_runner();

    fs::write(&job.config, file).unwrap();
    job.prepare();
    assert_eq!(job.run("build_script", "exit 42").code, BUILD_FAILURE);
    job.cleanup_as_gitlab_runner();
    assert_eq!(lines(&job, "ERROR").len(), 1, "a script's failure is nothing to wake anybody for");
    let ended: Vec<_> = lines(&job, "INFO")
        .into_iter()
        .filter(|line| line["fields"]["verdict"].is_string())
        .collect();
    let verdicts: Vec<_> = ended
        .iter()
        .map(|line| {
            (line["span"]["stage"].as_str().unwrap(), line["fields"]["verdict"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            ("cleanup", "success"),
            ("prepare", "success"),
            ("run build_script", "build failure"),
            ("cleanup", "success")
        ]
    );
    assert_eq!(
        (&ended[2]["fields"]["exit_code"], ended[2]["fields"]["seconds"].is_number()),
        (&42.into(), true)
    );
    let number = job.get("CUSTOM_ENV_CI_JOB_ID").unwrap();
    let is_about_the_job = |line: &serde_json::Value| {
        line["span"]["job"] == number
            || line["fields"]["message"].as_str().unwrap().contains(number)
    };
    // A service also logs what it does besides stages.
    let lines = lines(&job, "INFO");
    let of_stages = lines.iter().filter(|line| !job.is_hosted() || line["span"].is_object());
    assert!(of_stages.into_iter().all(is_about_the_job));
    assert!(!job.log().contains("PRIVATE KEY"));
}

#[test]
fn a_job_that_has_begun_keeps_its_login_when_the_file_is_changed() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let file = fs::read_to_string(&job.config).unwrap();
    let without = file[..file.find("[SSH]").unwrap()].to_owned()
        + &file[file.find("[TaskMetadata]").unwrap()..];
    fs::write(&job.config, format!("{without}[ECSExec]\n")).unwrap();
    let run = job.run("build_script", "echo still there");
    assert_eq!(
        (run.code, String::from_utf8_lossy(&run.stdout).trim()),
        (0, "still there"),
        "{run:#?}"
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn services_that_are_not_started_are_named_in_the_job_log() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.set("CUSTOM_ENV_CI_JOB_SERVICES", r#"[{"name":"postgres:17","alias":"db"}]"#);
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("does not start services (postgres:17)"),
        "{}",
        prepared.stderr
    );
    job.cleanup();
}
