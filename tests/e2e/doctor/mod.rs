//! `fargate doctor`: on an account that is ready, on one where AWS refuses everything, and with
//! mistakes that are planted one at a time.

mod front;
mod manager_mistakes;
mod mistakes;
mod scene;

use std::process::Command;

use serde_json::Value;

use crate::{cluster::Cluster, runner::Job};

pub use self::{
    front::Front,
    scene::{Scene, ec2},
};

/// Checks that need no AWS.
const LOCAL: [&str; 3] = ["configuration", "directory", "gitlab-runner"];

/// Only these begin the names of actions that change nothing.
const READS: [&str; 4] = ["Describe", "Get", "List", "Simulate"];

/// The manager's policies with the permissions for these.
const POLICIES: [&str; 2] = [
    include_str!("../../../deploy/iam/manager.json"),
    include_str!("../../../deploy/iam/manager-doctor.json"),
];

#[test]
#[ignore = "needs moto: scripts/test installs it and runs this"]
fn an_account_that_is_ready_has_no_problem_and_is_not_changed() {
    for scene in [Scene::new(), Scene::by_ecs_exec()] {
        let examined = scene.examine();
        let bad: Vec<&Value> =
            examined.outcomes.iter().filter(|outcome| outcome["status"] != "pass").collect();
        assert_eq!((bad.as_slice(), examined.code), (&[][..], Some(0)), "{}", examined.stderr);
        assert_eq!(examined.outcomes.len(), 18, "one for each check: {:#?}", examined.outcomes);
        let calls = scene.front.calls();
        assert!(calls.len() > 15, "{calls:?}");
        for call in &calls {
            assert!(READS.iter().any(|read| call.starts_with(read)), "{call} may change something");
            // STS needs none.
            let is_permitted = POLICIES.iter().any(|policy| policy.contains(&format!(":{call}\"")));
            assert!(is_permitted || call == "GetCallerIdentity", "{call} is in no policy");
        }
        let files = std::fs::read_dir(&scene.metadata).unwrap();
        assert_eq!(files.count(), 0, "no file in the metadata directory");
    }
}

#[test]
#[ignore = "needs moto: scripts/test installs it and runs this"]
fn the_table_has_a_line_for_each_check_and_says_how_many_passed() {
    let scene = Scene::new();
    scene.examine();
    let shown = scene.run(&[]);
    let text = String::from_utf8(shown.stdout).unwrap();
    for title in ["security groups", "task definition", "gitlab-runner", "ECS Exec"] {
        assert!(text.contains(&format!("pass     {title}")), "{title}: {text}");
    }
    assert!(text.ends_with("\npass 18\n"), "{text}");
}

/// An organization's policy, for example, or an endpoint's.
#[test]
fn where_aws_refuses_everything_the_rest_is_unknown() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let front = Front::start(None);
    front.behave(|front| {
        front.denied.insert("*".to_owned());
    });
    std::fs::create_dir(&job.metadata).unwrap();
    restrict(&job.metadata);
    let output = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        .envs(job.environment.iter().map(|(k, v)| (k, v)))
        .env("AWS_ENDPOINT_URL", &front.endpoint)
        .arg("--config")
        .arg(&job.config)
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcomes = document["outcomes"].as_array().unwrap();
    for outcome in outcomes {
        let check = outcome["check"].as_str().unwrap();
        let is_local = LOCAL.contains(&check) || check == "clock" || check == "ecs-exec";
        assert!(is_local || outcome["status"] == "unknown", "{outcome}");
        assert_ne!(outcome["status"], "failure", "{outcome}");
    }
    let unknown = outcomes.iter().filter(|outcome| outcome["status"] == "unknown");
    assert!(unknown.count() >= 12, "{outcomes:#?}");
    assert_eq!(output.status.code(), Some(3));
}

fn restrict(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Runs doctor for a job's manager. Returns its exit code, what it printed, and its errors.
pub fn doctor(job: &Job, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        .envs(job.environment.iter().map(|(k, v)| (k, v)))
        .arg("--config")
        .arg(&job.config)
        .arg("doctor")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_local_cluster_is_examined_and_launch_runs_a_job_there() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let (code, table, stderr) = doctor(&job, &["--launch"]);
    assert_eq!(code, Some(3), "it has no IAM and no VPC: {table}{stderr}");
    for line in [
        "pass     credentials      arn:aws:iam::000000000000:user/local.",
        "pass     cluster          local in us-east-1 is ACTIVE.",
        "pass     launch           A job ran: Provisioning ",
        "unknown  subnets ",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    assert!(!table.contains("failure "), "{table}");
    assert!(stderr.contains("archived"), "the timeline: {stderr}");
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_launch_that_fails_is_a_failure_with_the_reason_above() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let reason = "CannotPullContainerError: no such image";
    cluster.as_local().set_faults(
        &serde_json::json!({ "stops_early": { "code": "TaskFailedToStart", "reason": reason } }),
    );
    let (code, table, stderr) = doctor(&job, &["--launch"]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("failure  launch           The job failed (Provisioning"), "{table}");
    assert!(stderr.contains(reason), "{stderr}");
    cluster.assert_nothing_is_left(1);
}

#[test]
fn credentials_that_aws_does_not_accept_are_the_only_failure() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.set("AWS_SECRET_ACCESS_KEY", "wrong");
    let (code, table, _) = doctor(&job, &[]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("failure  credentials      AWS does not accept"), "{table}");
    assert_eq!(table.matches("failure  ").count(), 1, "{table}");
    assert!(table.matches("It needs credentials that AWS accepts.").count() >= 12, "{table}");
}

#[test]
fn an_unreadable_configuration_is_exit_code_2_and_mistakes_in_it_are_failures() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let text = std::fs::read_to_string(&job.config).unwrap();
    let wrong = text.replace("Port = ", "Port = 70000 # ").replace("Cluster = ", "Cluster = 7 # ");
    std::fs::write(&job.config, wrong).unwrap();
    let (code, table, _) = doctor(&job, &[]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("Port is ") && table.contains("Cluster is "), "both at once: {table}");
    std::fs::remove_file(&job.config).unwrap();
    let (code, table, stderr) = doctor(&job, &["--json"]);
    assert!(code == Some(2) && table.is_empty() && stderr.contains("cannot be read"), "{stderr}");
}
