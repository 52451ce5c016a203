//! Commands of `fargate-replay` that act on a job: resume, stop, archive, shell.

use std::{
    fs,
    io::Read,
    process::{Command, Output, Stdio},
};

use states::{AnyJob, DirectoryStore, Snapshot};

use crate::{
    cluster::{Cluster, eventually},
    runner::Job,
};

/// Prepares the command with a job's configuration and environment.
pub fn replay(job: &Job) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fargate-replay"));
    command
        .env_clear()
        .envs(job.environment.iter().map(|(k, v)| (k, v)))
        .arg("--config")
        .arg(&job.config)
        .stdin(Stdio::null());
    command
}

/// Returns the job's id in GitLab.
pub fn id(job: &Job) -> String {
    job.get("CUSTOM_ENV_CI_JOB_ID").unwrap().to_owned()
}

/// Returns what a command wrote to standard error.
fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether the driver has marked that output of the job's run was handed on up to this offset.
fn is_marked(job: &Job, offset: u64) -> bool {
    let Ok(Snapshot { job: AnyJob::Executing(executing), .. }) = Snapshot::parse(&job.snapshot())
    else {
        return false;
    };
    let run = &executing.state.order.run;
    DirectoryStore::look(&job.metadata).read_mark(&executing.header.id, run) == Some(offset)
}

fn resume_follows_the_script_of_a_killed_driver_to_its_end(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let script = job.script("echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; echo the rest; printf 'no newline'; exit 7");
    let mut run = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    run.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();

    let refused = replay(&job).args(["resume", &id(&job)]).output().unwrap();
    assert_eq!(refused.status.code(), Some(255), "{refused:?}");
    assert!(
        stderr(&refused).contains(&format!("process {} (run build_script)", job.worker(&run))),
        "{}",
        stderr(&refused)
    );

    eventually("the output is marked as handed on", || is_marked(&job, 6));
    job.kill(&mut run);
    let alive = replay(&job).args(["archive", &id(&job)]).output().unwrap();
    assert_eq!(alive.status.code(), Some(1), "{alive:?}");
    assert!(
        stderr(&alive).contains("RUNNING") && stderr(&alive).contains("stop"),
        "{}",
        stderr(&alive)
    );

    // `shell` runs beside the script, takes no lease and leaves the snapshot as it is.
    let before = job.snapshot();
    let beside = replay(&job)
        .args(["shell", &id(&job), "--", "touch \"$TMPDIR/go\"; echo beside; exit 5"])
        .output()
        .unwrap();
    assert_eq!(
        (beside.status.code(), beside.stdout.as_slice()),
        (Some(5), &b"beside\n"[..]),
        "{}",
        stderr(&beside)
    );
    assert_eq!(job.snapshot(), before);

    let resumed = replay(&job).args(["resume", &id(&job)]).output().unwrap();
    assert_eq!(resumed.status.code(), Some(7), "{}", stderr(&resumed));
    assert_eq!(
        String::from_utf8_lossy(&resumed.stdout),
        "the rest\nno newline",
        "{}",
        stderr(&resumed)
    );

    let stopped =
        replay(&job).args(["stop", &id(&job), "--reason", "by the test"]).output().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{}", stderr(&stopped));
    cluster.assert_nothing_is_left(1);
    let archived = job.archived();
    assert!(fs::read_to_string(&archived[0]).unwrap().contains("by the test"));
    let stepped = replay(&job).arg("step").arg(&archived[0]).output().unwrap();
    assert_eq!(stepped.status.code(), Some(0), "{}", String::from_utf8_lossy(&stepped.stdout));

    let kept = replay(&job).args(["prune", "--keep", "0", "--dry-run"]).output().unwrap();
    assert!(String::from_utf8_lossy(&kept.stdout).starts_with("1 of 1"), "{kept:?}");
    assert_eq!(job.archived().len(), 1);
}

#[test]
fn only_jobs_of_the_configured_cluster_are_acted_on() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let (file, before) = (fs::read_to_string(&job.config).unwrap(), job.snapshot());
    fs::write(&job.config, file.replace("Cluster = \"local\"", "Cluster = \"prod\"")).unwrap();
    for command in [&["resume"][..], &["stop"], &["archive"], &["shell"]] {
        let mut arguments = vec![command[0].to_owned(), id(&job)];
        if command[0] == "shell" {
            arguments.extend(["--", "true"].map(str::to_owned));
        }
        let refused = replay(&job).args(&arguments).output().unwrap();
        let message = stderr(&refused);
        assert!(
            !refused.status.success()
                && message.contains("of cluster local")
                && message.contains("--any-cluster"),
            "{arguments:?}: {message}"
        );
    }
    assert_eq!(job.snapshot(), before, "nothing was done");
    assert_eq!(cluster.tasks().iter().filter(|task| task.status == "RUNNING").count(), 1);
    let stopped = replay(&job).args(["stop", &id(&job), "--any-cluster"]).output().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{}", stderr(&stopped));
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_directory_that_others_could_change_is_read_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o777)).unwrap();
    let listed = replay(&job).arg("list").output().unwrap();
    assert!(
        listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains(&id(&job)),
        "{listed:?}"
    );
    let refused = replay(&job).args(["stop", &id(&job)]).output().unwrap();
    assert!(!refused.status.success() && stderr(&refused).contains("chmod go-w"), "{refused:?}");
    assert_eq!(cluster.as_local().calls("StopTask"), 0);
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o700)).unwrap();
    job.cleanup();
}

#[test]
fn resume_on_the_local_cluster() {
    resume_follows_the_script_of_a_killed_driver_to_its_end(&Cluster::local());
}

#[test]
fn resume_by_ecs_exec() {
    resume_follows_the_script_of_a_killed_driver_to_its_end(&Cluster::local_by_ecs_exec());
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn resume_on_moto_and_openssh() {
    resume_follows_the_script_of_a_killed_driver_to_its_end(&Cluster::moto());
}
