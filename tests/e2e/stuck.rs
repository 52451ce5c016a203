//! Stuck and failed jobs for `fixtures/stuck`, one per failure mode: real runs on the local cluster with
//! the fault injected. `scripts/make-stuck-fixtures` writes them; as a test, each must show its mode.

use std::{fs, io::Read as _, path::PathBuf, process::Child};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Local},
    eventually,
    runner::Job,
};

/// How far a job with a fault goes before its snapshot is kept.
enum Until {
    /// `prepare` fails, `cleanup` ends the job.
    Failed,
    /// `prepare` succeeds, a script runs until it fails, `cleanup` ends the job.
    RunFailed(&'static str),
    /// The script has begun; this is done then, and the snapshot taken once it contains this.
    Executing(fn(&Local, &mut Child), &'static str),
    /// `cleanup` gives up.
    NotStopped,
}

fn modes() -> Vec<(&'static str, Value, &'static str, Until)> {
    let quick = "[Deadlines]\nProvisioning = \"4s\"\nRunning = \"4s\"\nReconnect = \"4s\"\nStop = \"1s\"\n";
    let refusal =
        |code: &str, message: &str| json!({ "refuse": { "RunTask": { "status": 400, "code": code, "message": message, "times": 1000 } } });
    let early = |reason: &str| json!({ "stops_early": { "code": "TaskFailedToStart", "reason": reason, "container_reason": reason } });
    let dies = |after: u64, code: &str, reason: &str, container: Value, exit: i32| json!({ "after_ms": after, "code": code, "reason": reason, "container_reason": container, "exit_code": exit });
    let essential = "Essential container in task exited";
    let nothing = |_: &Local, _: &mut Child| {};
    vec![
        (
            "capacity",
            json!({ "launch_failure": { "reason": "Capacity is unavailable at this time. Please try again later or in a different availability zone", "times": 1000 } }),
            quick,
            Until::Failed,
        ),
        ("throttled", json!({ "throttle": { "RunTask": 1000 } }), quick, Until::Failed),
        ("credentials", refusal("ExpiredTokenException", "The security token included in the request is expired"), quick, Until::Failed),
        (
            "denied",
            refusal(
                "AccessDeniedException",
                "User: arn:aws:sts::123456789012:assumed-role/manager is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/task",
            ),
            "",
            Until::Failed,
        ),
        ("wrong-setting", refusal("InvalidParameterException", "The subnet ID 'subnet-local' does not exist"), "", Until::Failed),
        (
            "no-capacity-provider",
            refusal("InvalidParameterException", "No Container Instances were found in your cluster."),
            "",
            Until::Failed,
        ),
        (
            "image-pull",
            early(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref registry.example/ci:latest: not found",
            ),
            "",
            Until::Failed,
        ),
        (
            "initialisation",
            early(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: access denied",
            ),
            "",
            Until::Failed,
        ),
        (
            "container-exited",
            json!({ "dies": dies(500, "EssentialContainerExited", essential, Value::Null, 1), "ssh": { "never_listens": true } }),
            "",
            Until::Failed,
        ),
        ("connection-timed-out", json!({ "ssh": { "silent": true } }), quick, Until::Failed),
        ("connection-refused", json!({ "ssh": { "never_listens": true } }), quick, Until::Failed),
        ("key-refused", json!({ "ssh": { "refuses_keys": true } }), "[Deadlines]\nRunning = \"60s\"\n", Until::Failed),
        (
            "host-key-changed",
            json!({}),
            quick,
            Until::Executing(
                |cluster, _| {
                    cluster.set_faults(&json!({ "ssh": { "other_host_key": true } }));
                    cluster.drop_connections();
                },
                "IdentityChanged",
            ),
        ),
        (
            "out-of-memory",
            json!({ "dies": dies(3000, "EssentialContainerExited", essential, json!("OutOfMemoryError: Container killed due to memory usage"), 137) }),
            "",
            Until::RunFailed("echo begun; sleep 600"),
        ),
        (
            "spot-interruption",
            json!({ "dies": dies(3000, "SpotInterruption", "Your Spot Task was interrupted.", Value::Null, 143) }),
            "",
            Until::RunFailed("echo begun; sleep 600"),
        ),
        (
            "connection-lost",
            json!({}),
            "",
            Until::Executing(
                |cluster, _| {
                    cluster.set_faults(&json!({ "ssh": { "cut_after_bytes": 1, "cuts": 100_000 } }));
                    cluster.drop_connections();
                },
                "Interrupted",
            ),
        ),
        ("script-silent", json!({}), "", Until::Executing(nothing, "Progress")),
        ("script-failed", json!({}), "", Until::RunFailed("echo begun; exit 3")),
        (
            "driver-gone",
            json!({}),
            "",
            Until::Executing(
                |_, run| {
                    run.kill().unwrap();
                    run.wait().unwrap();
                },
                "Delivered",
            ),
        ),
        ("stop-unfinished", json!({}), quick, Until::NotStopped),
    ]
}

/// Produces the job, and answers with its snapshot's file and, of one that is not over, its lock's.
fn produce(name: &str, faults: &Value, more: &str, until: &Until) -> (Cluster, Job, PathBuf) {
    let cluster = Cluster::local();
    let Cluster::Local(local) = &cluster else { unreachable!("it was started as a local one") };
    let job = Job::with(&cluster, more);
    if !matches!(until, Until::Executing(..) | Until::NotStopped) {
        local.set_faults(faults);
    }
    let prepared = job.stage(&["prepare"]);
    match until {
        Until::Failed => assert_ne!(prepared.code, 0, "{name}: {prepared:#?}"),
        _ => assert_eq!(prepared.code, 0, "{name}: {prepared:#?}"),
    }
    match until {
        Until::Failed => job.cleanup(),
        Until::RunFailed(script) => {
            let ended = job.run("build_script", script);
            assert_ne!(ended.code, 0, "{name}: {ended:#?}");
            job.cleanup();
        }
        Until::Executing(then, contains) => {
            let script = job.script("echo begun; sleep 600").display().to_string();
            let mut run = job.spawn(&["run", &script, "build_script"]);
            let mut begun = [0; 6];
            run.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
            eventually("the beginning is on record", || job.snapshot().contains("started: true"));
            then(local, &mut run);
            eventually(contains, || job.archived().len() + job.files(".ron").len() == 1 && job.snapshot().contains(contains));
            let path = job.files(".ron").remove(0);
            // It is wanted as it is now, whatever becomes of its driver.
            let kept = path.with_extension("kept");
            fs::copy(&path, &kept).unwrap();
            let _ = run.kill();
            let _ = run.wait();
            fs::rename(&kept, &path).unwrap();
            return (cluster, job, path);
        }
        Until::NotStopped => {
            local.set_faults(&json!({ "stop_ignored": true }));
            assert_ne!(job.stage(&["cleanup"]).code, 0);
            let path = job.files(".ron").remove(0);
            return (cluster, job, path);
        }
    }
    let path = job.archived().remove(0);
    (cluster, job, path)
}

#[test]
#[ignore = "some twenty jobs, half a minute each at worst; scripts/make-stuck-fixtures writes their snapshots with it"]
fn every_failure_mode_leaves_a_snapshot_that_shows_it() {
    let wanted = std::env::var("STUCK_FIXTURE").ok();
    let write = std::env::var_os("WRITE_FIXTURES").is_some();
    std::thread::scope(|scope| {
        for (name, faults, more, until) in modes() {
            if wanted.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            scope.spawn(move || {
                let (_cluster, _job, path) = produce(name, &faults, more, &until);
                let snapshot = states::Snapshot::parse(&fs::read_to_string(&path).unwrap()).unwrap();
                let now = fargate_driver::replay::show::last_seen(&snapshot) + std::time::Duration::from_secs(20 * 60);
                let around = fargate_driver::replay::holder::Surroundings {
                    holder: if name == "driver-gone" {
                        fargate_driver::replay::holder::Holder::Nobody(None)
                    } else {
                        fargate_driver::replay::holder::Holder::Working("process 1".to_owned())
                    },
                    free: None,
                };
                let story = fargate_driver::replay::story::Story::of(&snapshot, now);
                let found = fargate_driver::replay::diagnosis::diagnose(&snapshot, &story, &around, now);
                assert_eq!(found[0].cause.name(), name, "{found:#?}");
                if write {
                    let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck");
                    fs::create_dir_all(&place).unwrap();
                    fs::copy(&path, place.join(format!("{name}.ron"))).unwrap();
                }
            });
        }
    });
}
