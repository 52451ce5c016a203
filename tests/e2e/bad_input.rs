//! Bad input: a clear error, the right exit code, nothing started and nothing lost.

use std::fs;

use crate::{
    cluster::Cluster,
    runner::{Ended, Job, SYSTEM_FAILURE},
};

fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
}

#[test]
fn configurations() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let good = fs::read_to_string(&job.config).unwrap();
    fs::remove_file(&job.config).unwrap();
    assert_refused(&job.stage(&["config"]), &["fargate.toml", "cannot be read", "No such file"]);
    for (text, words) in [
        (
            good.replace("Port = ", "Port = \"x\" # "),
            ["fargate.toml:", "Port is a string", "0 to 65535"],
        ),
        (good.replace("[SSH]", "[SSH"), ["fargate.toml:", "not TOML", ":"]),
        (
            good.replace("Cluster = ", "Clutser = "),
            ["missing", "[Fargate] Cluster", "docs/configuration.md"],
        ),
    ] {
        fs::write(&job.config, text).unwrap();
        assert_refused(&job.stage(&["config"]), &words);
        assert_refused(&job.stage(&["prepare"]), &words);
    }
    fs::write(&job.config, good.replace("SecurityGroup", "SecurtyGroup")).unwrap();
    let warned = job.stage(&["config"]);
    assert_eq!(warned.code, 0);
    assert!(
        warned.stderr.contains("SecurtyGroup") && warned.stderr.contains("SecurityGroup?"),
        "{}",
        warned.stderr
    );
    assert_eq!(cluster.tasks().len(), 0);
}

#[test]
fn environments() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.unset("BUILD_FAILURE_EXIT_CODE");
    assert_refused(&job.stage(&["prepare"]), &["BUILD_FAILURE_EXIT_CODE", "fargate try"]);
    assert_eq!(cluster.tasks().len(), 0);
}

#[test]
fn metadata_directories() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let good = fs::read_to_string(&job.config).unwrap();
    let name = format!("{:?}", job.metadata);
    // No user can create files there, not even root.
    fs::write(&job.config, good.replace(&name, "\"/proc/self\"")).unwrap();
    assert_refused(&job.stage(&["prepare"]), &["/proc/self", "[TaskMetadata]"]);
    fs::write(&job.config, good.replace(&name, &format!("{:?}", job.config))).unwrap();
    assert_refused(&job.stage(&["prepare"]), &["cannot create the directory", "[TaskMetadata]"]);
    assert_eq!(cluster.tasks().len(), 0, "nothing was launched that could not be recorded");
    fs::write(&job.config, good).unwrap();
    job.prepare();
    assert_eq!(
        fs::metadata(&job.metadata).unwrap().permissions().mode() & 0o777,
        0o700,
        "it is made when it is missing"
    );
    job.cleanup();
}

#[test]
fn a_metadata_directory_that_others_could_change_is_refused_at_every_stage() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let before = job.snapshot();
    let script = job.script("echo never").display().to_string();
    let refused = |words: &[&str]| {
        for stage in
            [&["config"][..], &["prepare"], &["run", &script, "build_script"], &["cleanup"]]
        {
            assert_refused(&job.stage(stage), words);
        }
        let reaped = job.reap(&["--older-than", "0s"]);
        assert!(
            reaped.code != 0 && words.iter().all(|word| reaped.stderr.contains(word)),
            "{reaped:#?}"
        );
    };
    let name = job.metadata.display().to_string();
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o770)).unwrap();
    refused(&[&name, "other users may write", &format!("chmod go-w {name}")]);
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o700)).unwrap();
    if chown(&job.metadata, Some(4711), None).is_ok() {
        refused(&[&name, "belongs to the user with id 4711", "chown -h 0"]);
        chown(&job.metadata, Some(0), None).unwrap();
    }
    assert_eq!(
        (job.snapshot(), cluster.tasks().len(), cluster.as_local().calls("StopTask")),
        (before, 1, 0)
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_snapshot_that_is_too_large_is_refused_and_its_task_can_be_ended() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    job.edited.store(true, std::sync::atomic::Ordering::Relaxed);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let name = path.display().to_string();
    assert_refused(&job.run("build_script", "echo never"), &[&name, "larger than 1 MiB"]);
    assert_refused(&job.stage(&["cleanup"]), &[&name, "larger than 1 MiB", "was stopped"]);
    let reaped = job.reap(&["--older-than", "0s"]);
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned() + &reaped.stderr;
    assert!(said.contains("set aside") || said.contains("kept as"), "{said}");
    assert!(job.files(".ron").is_empty());
    cluster.assert_nothing_is_left(1);
}

#[test]
fn snapshots() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let whole = fs::read_to_string(&path).unwrap();
    for (text, words) in [
        (whole[..whole.len() / 2].to_owned(), ["cannot be used", "fargate-driver:job"]),
        (
            whole.replacen(&format!("version: {}", states::VERSION), "version: 99", 1),
            ["99", "newer"],
        ),
        (whole.replacen("id: \"tOk3n_-x-", "id: \"other-", 1), ["another job", "other-"]),
        ("hello".to_owned(), ["cannot be used", "Move the file away"]),
    ] {
        assert_ne!(text, whole);
        fs::write(&path, &text).unwrap();
        assert_refused(&job.run("build_script", "echo never"), &words);
        assert_refused(&job.stage(&["prepare"]), &words);
        assert_refused(&job.stage(&["cleanup"]), &words);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing is lost");
    }
    assert_eq!(cluster.tasks().len(), 1, "and nothing is launched");
    fs::write(&path, whole).unwrap();
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn scripts() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    assert_refused(
        &job.stage(&["run", "/does/not/exist", "build_script"]),
        &["/does/not/exist", "build_script"],
    );
    assert_eq!(job.run("build_script", "").code, 0, "an empty script is one");
    job.cleanup();
}

#[test]
fn command_lines() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    assert_refused(&job.stage(&["prepair"]), &["prepair", "prepare"]);
    assert_refused(&job.stage(&["run", "x"]), &["STAGE"]);
}
