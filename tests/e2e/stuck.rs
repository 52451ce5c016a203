//! Stuck and failed jobs for `fixtures/stuck`, one per failure mode: real runs on the local cluster
//! with the fault injected. `scripts/make-stuck-fixtures` writes them; as a test, each must show
//! its mode. The reports of the fixtures are tested in the crate `replay`.

use std::{
    fs,
    io::Read as _,
    path::PathBuf,
    process::Child,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Local},
    eventually,
    runner::Job,
    stuck_fixtures,
};

/// A failure mode.
struct Mode {
    /// The cause that it is diagnosed as, and the fixture's name.
    name: &'static str,
    /// What goes wrong on the cluster, from the beginning.
    faults: Value,
    /// How the job is driven.
    until: Until,
}

/// How far a job goes before its snapshot is kept.
#[derive(Clone, Copy)]
enum Until {
    /// `prepare` fails, `cleanup` ends the job.
    Failed,
    /// The same by ECS Exec.
    FailedByExec,
    /// `prepare` succeeds, a script runs until it fails, `cleanup` ends the job.
    RunFailed(&'static str),
    /// A script has begun; this is done then, and the snapshot taken once it contains this.
    Executing(fn(&Local), &'static str),
    /// The driver is killed while a script runs, `cleanup` ends the job.
    Killed,
    /// `cleanup` gives up, because the task does not stop.
    NotStopped,
}

const SCRIPT: &str = "echo begun; sleep 600";

fn refusal(code: &str, message: &str) -> Value {
    json!({ "refuse": { "RunTask": { "status": 400, "code": code, "message": message, "times": 1000 } } })
}

fn stops_early(reason: &str) -> Value {
    json!({ "stops_early": { "code": "TaskFailedToStart", "reason": reason, "container_reason": reason } })
}

fn dies(
    after_ms: u64,
    code: &str,
    reason: &str,
    container_reason: Option<&str>,
    exit_code: i32,
) -> Value {
    json!({ "after_ms": after_ms, "code": code, "reason": reason, "container_reason": container_reason, "exit_code": exit_code })
}

fn modes() -> Vec<Mode> {
    use Until::{Executing, Failed, FailedByExec, Killed, NotStopped, RunFailed};
    let mode = |name, faults, until| Mode { name, faults, until };
    let essential = "Essential container in task exited";
    let capacity = "Capacity is unavailable at this time. Please try again later or in a different availability zone";
    let vcpus = "You’ve reached the limit on the number of vCPUs you can run concurrently";
    let pass_role = "User: arn:aws:sts::123456789012:assumed-role/manager/i-0a1b2c3d4e5f60718 is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/task";
    let pull = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref registry.example/ci:latest: not found";
    let secrets = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: access denied";
    let memory = Some("OutOfMemoryError: Container killed due to memory usage");
    vec![
        mode(
            "capacity",
            json!({ "launch_failure": { "reason": capacity, "times": 1000 } }),
            Failed,
        ),
        mode(
            "account-limit",
            json!({ "launch_failure": { "reason": vcpus, "times": 1000 } }),
            Failed,
        ),
        mode("throttled", json!({ "throttle": { "RunTask": 1000 } }), Failed),
        mode(
            "credentials",
            refusal(
                "ExpiredTokenException",
                "The security token included in the request is expired",
            ),
            Failed,
        ),
        mode("denied", refusal("AccessDeniedException", pass_role), Failed),
        mode(
            "wrong-setting",
            refusal("InvalidParameterException", "The subnet ID 'subnet-local' does not exist"),
            Failed,
        ),
        mode(
            "no-capacity-provider",
            refusal(
                "InvalidParameterException",
                "No Container Instances were found in your cluster.",
            ),
            Failed,
        ),
        mode("image-pull", stops_early(pull), Failed),
        mode("initialisation", stops_early(secrets), Failed),
        mode(
            "container-exited",
            json!({ "dies": dies(500, "EssentialContainerExited", essential, None, 1), "ssh": { "never_listens": true } }),
            Failed,
        ),
        mode("connection-timed-out", json!({ "ssh": { "silent": true } }), Failed),
        mode("connection-refused", json!({ "ssh": { "never_listens": true } }), Failed),
        mode("key-refused", json!({ "ssh": { "refuses_keys": true } }), Failed),
        mode(
            "host-key-changed",
            json!({}),
            Executing(
                |cluster| {
                    cluster.set_faults(&json!({ "ssh": { "other_host_key": true } }));
                    cluster.drop_connections();
                },
                "IdentityChanged",
            ),
        ),
        mode(
            "out-of-memory",
            json!({ "dies": dies(6000, "EssentialContainerExited", essential, memory, 137) }),
            RunFailed(SCRIPT),
        ),
        mode(
            "spot-interruption",
            json!({ "dies": dies(6000, "SpotInterruption", "Your Spot Task was interrupted.", None, 143) }),
            RunFailed(SCRIPT),
        ),
        mode(
            "connection-lost",
            json!({}),
            Executing(
                |cluster| {
                    cluster
                        .set_faults(&json!({ "ssh": { "cut_after_bytes": 1, "cuts": 100_000 } }));
                    cluster.drop_connections();
                },
                "kind: Interrupted",
            ),
        ),
        mode("script-silent", json!({}), Executing(|_| {}, "Progress")),
        mode("script-failed", json!({}), RunFailed("echo begun; exit 3")),
        mode("driver-gone", json!({}), Killed),
        mode("stop-unfinished", json!({}), NotStopped),
        mode("exec-agent", json!({ "exec": { "never_connects": true } }), FailedByExec),
        mode(
            "disk-full",
            json!({ "exec": { "ends_at_start": { "output": "failed to create channel: mkdir /var/lib/amazon/ssm: no space left on device", "times": 1000 } } }),
            FailedByExec,
        ),
    ]
}

/// Returns settings with deadlines that are short, but long enough for the mode to show.
fn settings(mode: &Mode) -> String {
    let running = if mode.name == "key-refused" { "60s" } else { "8s" };
    format!(
        "Manager = \"manager-1\"\n\n[Deadlines]\nProvisioning = \"10s\"\nRunning = \"{running}\"\nReconnect = \"30s\"\nStop = \"{}\"\n",
        if matches!(mode.until, Until::NotStopped) { "2s" } else { "30s" }
    )
}

/// Produces the job, and answers with its snapshot.
fn produce(mode: &Mode) -> String {
    let name = mode.name;
    let cluster = if matches!(mode.until, Until::FailedByExec) {
        Cluster::local_by_ecs_exec()
    } else {
        Cluster::local()
    };
    let local = cluster.as_local();
    let mut job = Job::with(&cluster, &settings(mode));
    job.set("CUSTOM_ENV_CI_JOB_NAME", "build");
    local.set_faults(&mode.faults);
    let prepared = job.stage(&["prepare"]);
    let fails = matches!(mode.until, Until::Failed | Until::FailedByExec);
    assert_eq!(prepared.code != 0, fails, "{name}: {prepared:#?}\n{}", job.log());
    match mode.until {
        Until::Failed | Until::FailedByExec => {}
        Until::RunFailed(script) => {
            let ended = job.run("build_script", script);
            assert_ne!(ended.code, 0, "{name}: {ended:#?}");
        }
        Until::Executing(then, contains) => {
            let mut run = begun(&job);
            then(local);
            eventually(contains, || job.snapshot().contains(contains));
            // It is wanted as it is now, whatever becomes of its driver.
            let snapshot = job.snapshot();
            run.kill().unwrap();
            run.wait().unwrap();
            return snapshot;
        }
        Until::Killed => {
            let mut run = begun(&job);
            run.kill().unwrap();
            run.wait().unwrap();
        }
        Until::NotStopped => {
            local.set_faults(&json!({ "stop_ignored": true }));
            let ended = job.stage(&["cleanup", "--wait"]);
            assert_ne!(ended.code, 0, "{name}: {ended:#?}");
            return job.snapshot();
        }
    }
    job.cleanup();
    fs::read_to_string(&job.archived()[0]).unwrap()
}

/// A script that has begun to write.
fn begun(job: &Job) -> Child {
    let script = job.script(SCRIPT).display().to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    let mut begun = [0; 6];
    run.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    eventually("the beginning is on record", || job.snapshot().contains("started: true"));
    run
}

/// Jobs that are produced side by side: each takes little but time.
const AT_ONCE: usize = 4;

#[test]
#[ignore = "some twenty jobs, ten seconds each at worst; scripts/make-stuck-fixtures writes their snapshots with it"]
fn every_failure_mode_leaves_a_snapshot_that_shows_it() {
    let wanted = std::env::var("STUCK_FIXTURE").ok();
    let write = std::env::var_os("WRITE_FIXTURES").is_some();
    let modes =
        modes().into_iter().filter(|mode| wanted.as_ref().is_none_or(|wanted| wanted == mode.name));
    let queue = Mutex::new(modes);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(mode) = queue.lock().unwrap_or_else(PoisonError::into_inner).next()
                    else {
                        break;
                    };
                    let text = produce(&mode);
                    let snapshot = states::Snapshot::parse(&text).unwrap();
                    let report = stuck_fixtures::report(mode.name, snapshot);
                    assert_eq!(
                        report.diagnoses[0].cause.name(),
                        mode.name,
                        "{:#?}\n{text}",
                        report.diagnoses
                    );
                    if write {
                        let place =
                            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck");
                        fs::create_dir_all(&place).unwrap();
                        fs::write(place.join(format!("{}.ron", mode.name)), text).unwrap();
                    }
                }
            });
        }
    });
}
