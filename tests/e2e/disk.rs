//! A metadata directory that cannot be written to: tasks and scripts that cannot be recorded do not
//! start.

use std::{fs, process::Command};

use crate::{
    cluster::Cluster,
    crash_job::local,
    parametrised::by_every_transport,
    runner::{Alone, Ended, Job, SYSTEM_FAILURE, is_of_service},
};

by_every_transport!(
    a_full_disk_launches_nothing,
    a_disk_that_fills_up_between_stages_runs_no_script_and_ends_the_task_when_there_is_room,
    a_directory_in_which_no_file_can_be_made_launches_nothing,
    #[ignore = "needs the right to mount: scripts/test runs it"]
    a_read_only_file_system_launches_nothing_and_runs_nothing,
    #[ignore = "needs strace: scripts/test installs it and runs this"]
    what_is_saved_survives_a_power_cut
        (not by pipes: "strace would count the calls of the container's processes too"),
);

/// A limit on file sizes fails like a full disk, in `write`. Its signal is ignored.
const FULL: [&str; 3] = ["sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""];

/// The disk is that of a service, too.
fn stage_under(job: &Job, before: &[&str], arguments: &[&str]) -> Ended {
    job.restart_service_under(before);
    let ended = job.ended(job.command_under(before, arguments).output().unwrap());
    job.restart_service_under(&[]);
    ended
}

/// Returns how many entries the metadata directory has, without those of a service.
fn entries(job: &Job) -> usize {
    let entries = fs::read_dir(&job.metadata).unwrap();
    entries.filter(|entry| !is_of_service(&entry.as_ref().unwrap().file_name())).count()
}

fn assert_refused(job: &Job, ended: &Ended) {
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(
        ended.stderr.contains(&job.metadata.display().to_string()),
        "it says where: {}",
        ended.stderr
    );
}

fn a_full_disk_launches_nothing(cluster: &Cluster) {
    let job = Job::on(cluster);
    let prepared = stage_under(&job, &FULL, &["prepare"]);
    assert_refused(&job, &prepared);
    assert!(prepared.stderr.contains("too large"), "{}", prepared.stderr);
    assert_eq!(local(cluster).calls("RunTask"), 0);
    assert!(job.snapshot().is_empty());
    // With room again, the job continues; all files are gone in the end.
    job.prepare();
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_eq!(entries(&job), 1, "the archive");
}

fn a_disk_that_fills_up_between_stages_runs_no_script_and_ends_the_task_when_there_is_room(
    cluster: &Cluster,
) {
    let job = Job::on(cluster);
    job.prepare();
    let ledger = job.path("ledger");
    let script = job.script(format!("echo ran >>'{}'", ledger.display())).display().to_string();
    let whole = job.snapshot();
    let run = stage_under(&job, &FULL, &["run", &script, "get_sources"]);
    assert_refused(&job, &run);
    assert!(!ledger.exists(), "it could not be recorded");
    assert_eq!(job.snapshot(), whole, "a snapshot is never torn");
    let again = job.stage(&["run", &script, "get_sources"]);
    assert_eq!(
        (again.code, fs::read_to_string(&ledger).unwrap().as_str()),
        (0, "ran\n"),
        "{again:#?}"
    );

    let whole = job.snapshot();
    let cleaned = stage_under(&job, &FULL, &["cleanup"]);
    assert_refused(&job, &cleaned);
    assert!(states::Snapshot::parse(&job.snapshot()).is_ok() && job.snapshot() == whole);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_eq!(entries(&job), 1, "the archive");
}

/// Not even root can create a file there.
fn a_directory_in_which_no_file_can_be_made_launches_nothing(cluster: &Cluster) {
    let mut job = Job::on(cluster);
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, text.replace(&format!("{:?}", job.metadata), "\"/proc\"")).unwrap();
    job.metadata = "/proc".into();
    assert_refused(&job, &job.stage(&["prepare"]));
    assert_eq!(local(cluster).calls("RunTask"), 0);
}

fn a_read_only_file_system_launches_nothing_and_runs_nothing(cluster: &Cluster) {
    let job = Job::on(cluster);
    let mounts = |options: &str| {
        let directory = job.metadata.display();
        format!("mount {options} && exec \"$0\" \"$@\"").replace("DIR", &directory.to_string())
    };
    let read_only = mounts("--bind DIR DIR && mount -o remount,bind,ro DIR");
    let tiny = mounts("-t tmpfs -o size=8k,mode=700 none DIR");
    let under = |script: &str| ["unshare", "--mount", "sh", "-c", script].map(str::to_owned);
    fs::create_dir(&job.metadata).unwrap();
    let words = under(&read_only);
    if !Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .output()
        .is_ok_and(|tried| tried.status.success())
    {
        println!("skipped: this user may not mount");
        return;
    }
    for (script, word) in
        [(&read_only, "Read-only file system"), (&tiny, "No space left on device")]
    {
        let words = under(script);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let prepared = stage_under(&job, &words, &["prepare"]);
        assert_refused(&job, &prepared);
        assert!(prepared.stderr.contains(word), "{}", prepared.stderr);
        assert_eq!(local(cluster).calls("RunTask"), 0);
    }
    job.prepare();
    let words = under(&read_only);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ledger = job.path("ledger");
    let script = job.script(format!("echo ran >>'{}'", ledger.display())).display().to_string();
    assert_refused(&job, &stage_under(&job, &words, &["run", &script, "build_script"]));
    assert!(!ledger.exists());
    assert_refused(&job, &stage_under(&job, &words, &["cleanup"]));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn what_is_saved_survives_a_power_cut(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::IsTraced);
    let trace = job.path("trace");
    let traced = trace.display().to_string();
    let strace = [
        "strace",
        "-f",
        "-y",
        "-qq",
        "-s",
        "0",
        "-e",
        "trace=write,rename,fsync,fdatasync,sendto,writev",
        "-o",
        &traced,
    ];
    // The saves of `cleanup`: its request, its acceptance, and the archived snapshot if it waits.
    for (arguments, saved) in
        [(&["prepare"][..], None), (&["cleanup"], Some(2)), (&["cleanup", "--wait"], Some(3))]
    {
        let ended = stage_under(&job, &strace, arguments);
        assert_eq!(ended.code, 0, "{ended:#?}");
        let text = fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(&job.metadata.display().to_string()))
            .collect();
        let mut saves = 0;
        for (at, call) in calls
            .iter()
            .enumerate()
            .filter(|(_, call)| call.contains("rename(") && call.contains(".tmp\""))
        {
            let temporary = call.split('"').nth(1).unwrap();
            let last_of = |name: &str| {
                calls[..at].iter().rposition(|call| call.contains(name) && call.contains(temporary))
            };
            assert!(
                last_of("fdatasync(") > last_of(" write("),
                "renamed before it was on disk: {:#?}",
                &calls[..=at]
            );
            let next = calls.get(at + 1).unwrap_or(&"nothing");
            assert!(next.contains("fsync("), "not on record in its directory: {call}, then {next}");
            saves += 1;
        }
        assert!(
            saves >= 2 && saved.is_none_or(|saved| saved == saves),
            "{arguments:?}: {saves} saves in {text}"
        );
    }
    cluster.assert_nothing_is_left(1);
}
