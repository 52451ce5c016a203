//! What jobs cost, everywhere it is shown; and jobs on instances, where a figure would be wrong.

use std::{fs, process::Command};

use local_cluster::{INSTANCES, Settings};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Local},
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

/// Replaces a line of the job's `[Fargate]` by these.
fn set_fargate(job: &Job, lines: &str) {
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, text.replace("EnablePublicIP = false\n", lines)).unwrap();
}

/// Runs `fargate-replay` with the job's configuration.
fn replay(job: &Job, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fargate-replay"))
        .arg("--config")
        .arg(&job.config)
        .args(arguments)
        .env("COLUMNS", "120")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A minute is the least that is billed: (1 × 0.01288871 + 2 × 0.00141527) / 60 = 0.0003 USD.
#[test]
fn a_spot_jobs_cost_is_in_the_job_log_in_show_and_in_stats() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    set_fargate(
        &job,
        "CapacityProviders = [{ Name = \"FARGATE_SPOT\", Weight = 1 }]\nShowCost = true\n",
    );
    job.prepare();
    let ran = job.run("build_script", "echo fine");
    assert!(!ran.stderr.contains("Cost:"), "it is not the last stage: {}", ran.stderr);
    let last = job.run("cleanup_file_variables", "true");
    let said = "Cost: about $0.0003 so far: 1 vCPU and 2 GB for 1m on Fargate Spot, at the prices of 2026-09-11.";
    assert!(last.stderr.contains(said), "{}", last.stderr);
    assert_eq!(job.stage(&["cleanup", "--wait"]).code, 0);
    assert!(job.log().contains("The task is stopping"), "{}", job.log());
    let snapshot = job.archived()[0].display().to_string();
    let shown = replay(&job, &["show", &snapshot]);
    let cost = "about $0.0003: 1 vCPU and 2 GB for 1m on Fargate Spot, at the prices of 2026-09-11";
    assert!(shown.contains(cost), "{shown}");
    let stats = replay(&job, &["stats"]);
    assert!(stats.contains("group/project  $0.0003 in 1 job\n"), "{stats}");
    let stats: Value = serde_json::from_str(&replay(&job, &["stats", "--json"])).unwrap();
    assert_eq!(stats["costs"]["total"]["vcpu_seconds"], 60.0, "{stats}");
}

#[test]
fn prices_of_the_administrators_own_are_used_and_checked() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let prices = job.path("prices.toml");
    set_fargate(&job, &format!("LaunchType = \"FARGATE\"\nShowCost = true\nPrices = {prices:?}\n"));
    let rates = "currency = \"EUR\"\npublished = \"2026-11-01\"\n[regions.us-east-1]\nx86_64 = { vcpu = 60.0, gb = 30.0 }\n";
    fs::write(&prices, rates).unwrap();
    job.prepare();
    let last = job.run("cleanup_file_variables", "true");
    assert!(last.stderr.contains("Cost: about 2.00 EUR so far"), "{}", last.stderr);
    fs::write(&prices, "currency = 1\n").unwrap();
    let last = job.run("cleanup_file_variables", "true # again");
    assert!(last.stderr.contains("the runner's file of prices cannot be used"), "{}", last.stderr);
    assert!(job.log().contains("prices.toml: line 1, column 12"), "{}", job.log());
    job.cleanup();
}

#[test]
fn jobs_run_on_instances_with_any_size_and_without_a_figure() {
    let settings = Settings { instances: true, ..Settings::default() };
    let cluster = Cluster::Local(Local::here(settings));
    for capacity in [
        "LaunchType = \"EC2\"".to_owned(),
        format!("CapacityProviders = [{{ Name = {INSTANCES:?}, Weight = 1 }}]"),
    ] {
        let mut job = Job::with(&cluster, "[Sizes]\nMaxCpu = 64000\nMaxMemory = 512000\n\n");
        set_fargate(&job, &format!("{capacity}\nShowCost = true\n"));
        job.set("CUSTOM_ENV_FARGATE_CPU", "300");
        job.set("CUSTOM_ENV_FARGATE_MEMORY", "700");
        job.set("CUSTOM_ENV_FARGATE_PLATFORM_VERSION", "1.4.0");
        job.set("CUSTOM_ENV_FARGATE_EPHEMERAL_STORAGE", "50");
        let prepared = job.stage(&["prepare"]);
        assert_eq!(prepared.code, 0, "{prepared:#?}");
        for ignored in ["FARGATE_PLATFORM_VERSION", "FARGATE_EPHEMERAL_STORAGE"] {
            assert!(prepared.stderr.contains(&format!("{ignored} is ignored")), "{prepared:#?}");
        }
        let last = job.run("cleanup_file_variables", "true");
        assert!(last.stderr.contains("Cost: not known, as it ran on instances ("), "{last:#?}");
        assert!(last.stderr.contains("0.29 vCPU and 0.68 GB"), "{last:#?}");
        job.cleanup();
    }
    cluster.assert_nothing_is_left(2);
}

#[test]
fn what_does_not_fit_the_launch_type_is_explained() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    set_fargate(&job, "LaunchType = \"EC2\"\n");
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    for words in ["no instances for LaunchType EC2", "docs/launch-types.md"] {
        assert!(prepared.stderr.contains(words), "{}", prepared.stderr);
    }
    // A project chooses a definition for Fargate alone: its own mistake.
    let settings = Settings { instances: true, ..Settings::default() };
    let cluster = Cluster::Local(Local::here(settings));
    let of_fargate = json!({
        "family": "fargate-only", "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc",
        "cpu": "256", "memory": "512",
        "containerDefinitions": [{ "name": "ci-coordinator", "image": "local" }],
    });
    cluster.ecs("RegisterTaskDefinition", &of_fargate);
    let mut job = Job::on(&cluster);
    set_fargate(&job, "LaunchType = \"EC2\"\n");
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "fargate-only");
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, BUILD_FAILURE, "{prepared:#?}");
    assert!(prepared.stderr.contains("does not support launch_type EC2"), "{}", prepared.stderr);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_job_runs_on_a_container_instance_of_moto() {
    let cluster = Cluster::moto();
    let Cluster::Moto(moto) = &cluster else { unreachable!("it is moto") };
    moto.register_instance();
    cluster.ecs(
        "RegisterTaskDefinition",
        &json!({ "family": "on-ec2", "networkMode": "awsvpc", "requiresCompatibilities": ["EC2"],
            "cpu": "256", "memory": "512",
            "containerDefinitions": [{ "name": "ci-coordinator", "image": "x", "memory": 512 }] }),
    );
    let job = Job::on(&cluster);
    set_fargate(&job, "LaunchType = \"EC2\"\nShowCost = true\n");
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, text.replace("\"job:1\"", "\"on-ec2\"")).unwrap();
    job.prepare();
    assert_eq!(job.run("build_script", "echo on EC2").stdout, b"on EC2\n");
    let last = job.run("cleanup_file_variables", "true");
    assert!(last.stderr.contains("it ran on instances (EC2)"), "{last:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
