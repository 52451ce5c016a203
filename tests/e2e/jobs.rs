//! Jobs from beginning to end, on every kind of cluster and by every transport.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, test_kill_process_group};
use serde_json::json;

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::on_every_cluster,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE, is_through_service},
};

on_every_cluster!(
    a_job_passes_through_all_stages,
    a_failing_script_is_a_build_failure_with_its_own_code,
    a_script_of_five_megabytes,
    three_hundred_megabytes_of_output,
    bytes_are_not_changed,
    a_script_that_reads_stdin_sees_its_end,
    a_background_process_does_not_hold_the_stage,
    cancelled_during_prepare (not by pipes: "a task that runs cannot keep pipes out"),
    cancelled_during_run,
    cancelled_while_the_stage_before_is_ended,
    a_script_that_floods_is_cancelled_over_the_connection_that_it_fills,
    twenty_jobs_at_once,
    cleanup_at_any_time,
    run_without_prepare,
    prepare_again_after_a_killed_one,
    a_retried_stage_of_a_killed_driver_continues,
    the_project_may_choose_only_what_is_allowed,
    a_definition_that_does_not_exist,
);

fn a_job_passes_through_all_stages(cluster: &Cluster) {
    let job = Job::on(cluster);
    let config = job.stage(&["config"]);
    assert_eq!(config.code, 0, "{config:#?}");
    let description: serde_json::Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(description["driver"]["name"], "fargate");
    job.prepare();
    let stages = [
        "prepare_script",
        "get_sources",
        "restore_cache",
        "download_artifacts",
        "build_script",
        "after_script",
        "archive_cache",
        "cleanup_file_variables",
    ];
    for (number, stage) in stages.iter().enumerate() {
        let run = job.run(
            stage,
            format!("echo {stage} >>\"$TMPDIR/stages\"; wc -l <\"$TMPDIR/stages\"; echo error >&2"),
        );
        assert_eq!(run.code, 0, "{run:#?}\n{}", job.log());
        assert_eq!(
            String::from_utf8(run.stdout).unwrap().trim(),
            format!("{}\nerror", number + 1),
            "stdout and stderr in order"
        );
        assert_eq!(run.stderr, "", "nothing of the driver's own in the job log");
        assert_eq!(run.script_code, None);
    }
    let keys = job.files(".key");
    if !cluster.has_keys() {
        assert_eq!(keys, Vec::<PathBuf>::new(), "no key is needed");
    } else {
        assert_eq!(keys.len(), 1);
        assert_eq!(fs::metadata(&keys[0]).unwrap().permissions().mode() & 0o777, 0o600);
        let key = fs::read_to_string(&keys[0]).unwrap();
        assert!(!job.snapshot().contains(key.lines().nth(1).unwrap()), "no secret in the snapshot");
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_eq!(
        job.files(".ron").len() + job.files(".key").len() + job.files(".lock").len(),
        0,
        "{:?}",
        fs::read_dir(&job.metadata)
    );
    assert_eq!(job.archived().len(), 1);
}

fn a_failing_script_is_a_build_failure_with_its_own_code(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    for (script, code) in [
        ("exit 42", "42"),
        ("exit 255", "255"),
        ("kill -9 $$", "137"),
        ("set -e; false; echo never", "1"),
        ("no-such-command-here", "127"),
    ] {
        let run = job.run("build_script", script);
        assert_eq!(
            (run.code, run.script_code.as_deref()),
            (BUILD_FAILURE, Some(code)),
            "{script}: {}\n{}",
            run.stderr,
            job.log()
        );
    }
    let after = job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_script_of_five_megabytes(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let mut script = String::from("n=0\n");
    while script.len() < 5_000_000 {
        script.push_str("n=$((n+1)) # a line of a script that carries many variables\n");
    }
    let lines = script.lines().count() - 1;
    script.push_str("echo $n\n");
    let run = job.run("build_script", &script);
    assert_eq!(
        (run.code, String::from_utf8(run.stdout).unwrap()),
        (0, format!("{lines}\n")),
        "{}",
        run.stderr
    );
    job.cleanup();
}

const LINE: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz\n";

/// Reads a child's stdout to its end; every byte must be the one that `yes` wrote there.
pub fn assert_lines(child: &mut Child, length: usize) {
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; LINE.len() * 4096];
    let expected = LINE.repeat(4096);
    let mut at = 0;
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let phase = at % LINE.len();
            let here = rest.len().min(expected.len() - phase);
            assert!(
                rest[..here] == expected[phase..phase + here],
                "a byte between {at} and {} is wrong",
                at + here
            );
            at += here;
            rest = &rest[here..];
        }
    }
    assert_eq!(at, length);
}

pub fn lines_script(length: usize) -> String {
    format!("yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {length}")
}

fn three_hundred_megabytes_of_output(cluster: &Cluster) {
    const LENGTH: usize = 300_000_000;
    let job = Job::on(cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script(lines_script(LENGTH)).display().to_string(),
        "build_script",
    ]);
    assert_lines(&mut run, LENGTH);
    assert_eq!(job.end(run).code, 0);
    job.cleanup();
}

fn bytes_are_not_changed(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let binary = job.run(
        "build_script",
        "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done",
    );
    assert_eq!(binary.stdout, (0..=255).collect::<Vec<u8>>());
    let unicode =
        job.run("build_script", "echo 'größe 日本語 🦀 e\u{301}'; printf 'no newline at the end'");
    assert_eq!(
        String::from_utf8(unicode.stdout).unwrap(),
        "größe 日本語 🦀 e\u{301}\nno newline at the end"
    );
    let quotes = job.run("build_script", "echo \"it's\" '\"$HOME\"' \\\\ '`x`'\n");
    assert_eq!(String::from_utf8(quotes.stdout).unwrap(), "it's \"$HOME\" \\ `x`\n");
    let crlf = job.run("build_script", "printf 'a\\r\\nb\\0c\\033[31m'");
    assert_eq!(crlf.stdout, b"a\r\nb\0c\x1b[31m");
    job.cleanup();
}

fn a_script_that_reads_stdin_sees_its_end(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let run = job.run("build_script", "cat\necho after cat\nread x || echo no input\n");
    assert_eq!(String::from_utf8(run.stdout).unwrap(), "after cat\nno input\n");
    job.cleanup();
}

fn a_background_process_does_not_hold_the_stage(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let began = Instant::now();
    let run = job.run("build_script", "sleep 600 &\necho started");
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"started\n"[..]), "{}", run.stderr);
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "the stage waited for the background process"
    );
    assert!(cluster.tasks()[0].processes > 0, "it lives on, for the stages that follow");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn cancelled_during_prepare(cluster: &Cluster) {
    let mut job = Job::on(cluster);
    match cluster {
        Cluster::Local(local) if cluster.is_by_ecs_exec() => {
            local.set_faults(&json!({ "exec": { "never_connects": true } }))
        }
        _ => {
            // No server listens on that port, so `prepare` waits.
            let config = fs::read_to_string(&job.config).unwrap();
            let port = config.lines().find(|line| line.starts_with("Port")).unwrap();
            fs::write(&job.config, config.replace(port, "Port = 9")).unwrap();
        }
    }
    let prepare = job.spawn(&["prepare"]);
    eventually("a task is launched", || !cluster.tasks().is_empty());
    Job::cancel(&prepare);
    let prepared = job.end(prepare);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    assert!(prepared.stderr.contains("cancelled"), "{}", prepared.stderr);
    job.set("CUSTOM_ENV_CI_JOB_STATUS", "canceled");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn cancelled_during_run(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let before = cluster.tasks()[0].processes;
    let mut run = job.spawn(&[
        "run",
        &job.script("printf '%09d\\n' $$; sleep 600 & sleep 600").display().to_string(),
        "build_script",
    ]);
    let mut first = [0; 10];
    run.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let leader = std::str::from_utf8(&first).unwrap().trim_end().parse().unwrap();
    let leader = Pid::from_raw(leader).unwrap();
    assert!(test_kill_process_group(leader).is_ok());
    Job::cancel(&run);
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    eventually("the script's whole process group is gone", || {
        // A service's standby begins at about the same time, and has processes, too.
        let are_as_before = || cluster.tasks()[0].processes <= before;
        test_kill_process_group(leader).is_err() && (is_through_service() || are_as_before())
    });
    let after = job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]), "{}", after.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// The driver of a stage was killed. The next stage ends its script, and is cancelled meanwhile.
fn cancelled_while_the_stage_before_is_ended(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nGracePeriod = \"2s\"\n");
    job.prepare();
    let deaf =
        job.script("trap '' TERM; echo begun; while :; do sleep 1; done").display().to_string();
    let mut first = job.spawn(&["run", &deaf, "build_script"]);
    first.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let ledger = job.path("ledger");
    let script = job.script(format!("echo ran >>'{}'", ledger.display())).display().to_string();
    let second = job.spawn(&["run", &script, "after_script"]);
    eventually("the first one's script is being ended", || {
        job.log().contains("ending the run that an earlier process left behind")
    });
    Job::cancel(&second);
    let ended = job.end(second);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("cancelled before its script was started"), "{}", ended.stderr);
    assert!(!ledger.exists(), "a script was started after the cancel");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// The signals' answers come behind all unread output, which is less than the limit for them (32
/// MiB).
fn a_script_that_floods_is_cancelled_over_the_connection_that_it_fills(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nGracePeriod = \"1s\"\n");
    job.prepare();
    let flood =
        "trap '' TERM; yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 30000000; sleep 60";
    let mut run = job.spawn(&["run", &job.script(flood).display().to_string(), "build_script"]);
    let mut stdout = run.stdout.take().unwrap();
    stdout.read_exact(&mut vec![0; 1_000_000]).unwrap();
    Job::cancel(&run);
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(
        ended.stderr.contains("cancelled") && !ended.stderr.contains("was lost"),
        "{}\n{}",
        ended.stderr,
        job.log()
    );
    let after = job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]), "{}", after.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn twenty_jobs_at_once(cluster: &Cluster) {
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || {
                let job = Job::on(cluster);
                job.prepare();
                for stage in ["get_sources", "build_script"] {
                    let run = job.run(stage, format!("echo {number}; exit {number}"));
                    assert_eq!(
                        String::from_utf8(run.stdout).unwrap(),
                        format!("{number}\n"),
                        "{}",
                        run.stderr
                    );
                    assert_eq!(
                        run.script_code.unwrap_or_else(|| "0".to_owned()),
                        number.to_string()
                    );
                }
                job.cleanup();
            });
        }
    });
    cluster.assert_nothing_is_left(20);
}

fn cleanup_at_any_time(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.cleanup();
    assert_eq!(cluster.tasks().len(), 0, "cleanup without prepare");
    job.prepare();
    job.cleanup();
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn run_without_prepare(cluster: &Cluster) {
    let job = Job::on(cluster);
    let run = job.run("build_script", "echo never");
    assert_eq!((run.code, run.stdout.as_slice()), (SYSTEM_FAILURE, &b""[..]));
    assert!(run.stderr.contains("there is no task for this job"), "{}", run.stderr);
    assert_eq!(cluster.tasks().len(), 0);
}

fn prepare_again_after_a_killed_one(cluster: &Cluster) {
    let job = Job::on(cluster);
    let mut first = job.spawn(&["prepare"]);
    eventually("a task is launched", || !cluster.tasks().is_empty());
    first.kill().unwrap();
    first.wait().unwrap();
    job.prepare();
    assert_eq!(job.run("build_script", "echo ok").stdout, b"ok\n");
    job.cleanup();
    let tasks = cluster.tasks().len();
    cluster.assert_nothing_is_left(tasks);
}

fn a_retried_stage_of_a_killed_driver_continues(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let script =
        job.script("echo run >>\"$TMPDIR/runs\"; echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; wc -l <\"$TMPDIR/runs\"");
    let script = script.display().to_string();
    let mut first = job.spawn(&["run", &script, "get_sources"]);
    let mut begun = [0; 6];
    first.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let second = job.spawn(&["run", &script, "get_sources"]);
    eventually("the second driver has connected", || {
        job.log().contains("run get_sources")
            || job.snapshot().matches("run get_sources").count() >= 2
    });
    // The script must not end earlier, so the file is created from outside, as an engineer would.
    crate::processes::release(cluster);
    let ended = job.end(second);
    assert_eq!(ended.code, 0, "{ended:#?}\n{}", job.log());
    assert!(
        String::from_utf8_lossy(&ended.stdout).trim_start_matches("begun").trim() == "1",
        "the script ran once: {ended:?}"
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn the_project_may_choose_only_what_is_allowed(cluster: &Cluster) {
    let mut job = Job::on(cluster);
    let config = fs::read_to_string(&job.config).unwrap();
    fs::write(
        &job.config,
        config.replace("EnablePublicIP", "AllowedTaskDefinitions = [\"ci-*\"]\nEnablePublicIP"),
    )
    .unwrap();
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "admin:3");
    let refused = job.stage(&["prepare"]);
    assert_eq!(refused.code, BUILD_FAILURE, "{refused:#?}");
    assert!(
        refused.stderr.contains("admin:3") && refused.stderr.contains("ci-*"),
        "{}",
        refused.stderr
    );
    job.cleanup();
    assert_eq!(cluster.tasks().len(), 0);
}

fn a_definition_that_does_not_exist(cluster: &Cluster) {
    let mut job = Job::on(cluster);
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "nowhere:1");
    let refused = job.stage(&["prepare"]);
    assert_eq!(refused.code, BUILD_FAILURE, "the project's own choice: {refused:#?}");
    assert!(refused.stderr.contains("nowhere:1"), "{}", refused.stderr);
    job.cleanup();
    job.unset("CUSTOM_ENV_FARGATE_TASK_DEFINITION");
    let config = fs::read_to_string(&job.config).unwrap();
    let definition = config.lines().find(|line| line.starts_with("TaskDefinition")).unwrap();
    fs::write(&job.config, config.replace(definition, "TaskDefinition = \"typo:1\"")).unwrap();
    let refused = job.stage(&["prepare"]);
    assert_eq!(refused.code, SYSTEM_FAILURE, "the administrator's choice: {refused:#?}");
    job.cleanup();
    fs::write(&job.config, config.replace("Cluster = \"", "Cluster = \"no-")).unwrap();
    let refused = job.stage(&["prepare"]);
    assert_eq!(refused.code, SYSTEM_FAILURE, "{refused:#?}");
    assert!(refused.stderr.contains("does not exist"), "{}", refused.stderr);
    assert_eq!(cluster.tasks().len(), 0);
}
