//! ECS refuses, fails and forgets for a while: jobs still end correctly, and nothing is left.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::by_every_transport,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

by_every_transport!(
    credentials_that_expired_are_retried_until_they_return,
    an_outage_of_the_api_is_retried,
    ec2_throttling_inside_a_launch_is_retried,
    a_quota_of_the_account_is_retried,
    a_quota_of_the_account_that_stays_used_up_names_service_quotas,
    a_conflict_with_an_unanswered_launch_continues_with_its_task,
    a_permission_that_is_missing_ends_prepare,
    a_cancelled_prepare_stops_its_task_itself_even_when_the_first_stop_is_refused,
    a_container_that_was_killed_for_its_memory_is_explained,
    a_secret_that_cannot_be_read_is_explained,
    a_task_that_somebody_stops_mid_script_is_explained,
    #[ignore = "takes longer than a minute: scripts/test runs it"]
    a_minute_of_throttling,
    #[ignore = "takes about a minute: scripts/test runs it"]
    two_hundred_jobs_while_a_tenth_of_all_calls_fails,
);

fn refusal(status: u16, code: &str, message: &str, times: u32) -> Value {
    json!({ "status": status, "code": code, "message": message, "times": times })
}

fn credentials_that_expired_are_retried_until_they_return(cluster: &Cluster) {
    let job = Job::on(cluster);
    let expired = || {
        refusal(
            400,
            "ExpiredTokenException",
            "The security token included in the request is expired",
            2,
        )
    };
    cluster.as_local().set_faults(
        &json!({ "refuse": { "RunTask": expired(), "DescribeTasks": expired(), "StopTask": expired(), "ExecuteCommand": expired() } }),
    );
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("does not accept the credentials"), "{}", prepared.stderr);
    assert_eq!(job.run("build_script", "echo fine").stdout, b"fine\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn an_outage_of_the_api_is_retried(cluster: &Cluster) {
    let job = Job::on(cluster);
    let outage = || {
        refusal(503, "ServiceUnavailableException", "Service is unavailable. Try again later.", 3)
    };
    cluster.as_local().set_faults(
        &json!({ "refuse": { "RunTask": outage(), "DescribeTasks": outage(), "StopTask": outage(), "ExecuteCommand": outage() } }),
    );
    job.prepare();
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// ECS reports EC2's refusals as wrong parameters.
fn ec2_throttling_inside_a_launch_is_retried(cluster: &Cluster) {
    let throttled = "Error retrieving security group information for [sg-0a1b2c3d]: Request limit exceeded. (ErrorCode: RequestLimitExceeded)";
    let job = Job::on(cluster);
    cluster.as_local().set_faults(&json!({ "refuse": { "RunTask": refusal(400, "InvalidParameterException", throttled, 2) } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("EC2 throttles ECS") && !prepared.stderr.contains("Check Subnet"),
        "{}",
        prepared.stderr
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

const QUOTA: &str = "You’ve reached the limit on the number of vCPUs you can run concurrently";

fn a_quota_of_the_account_is_retried(cluster: &Cluster) {
    let job = Job::on(cluster);
    cluster.as_local().set_faults(&json!({ "launch_failure": { "reason": QUOTA, "times": 2 } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(
        prepared
            .stderr
            .contains("a quota of the AWS account is used up, which Service Quotas shows"),
        "{}",
        prepared.stderr
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_quota_of_the_account_that_stays_used_up_names_service_quotas(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nProvisioning = \"2s\"\n");
    cluster.as_local().set_faults(&json!({ "launch_failure": { "reason": QUOTA, "times": 1000 } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("Service Quotas") && !prepared.stderr.contains("More subnets"),
        "{}",
        prepared.stderr
    );
    job.cleanup();
    cluster.assert_nothing_is_left(0);
}

/// RunTask succeeds without an answer; its repetition is a conflict.
fn a_conflict_with_an_unanswered_launch_continues_with_its_task(cluster: &Cluster) {
    let job = Job::on(cluster);
    cluster.as_local().set_faults(&json!({ "unanswered": { "RunTask": 1 }, "conflicts": 1 }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert_eq!(cluster.as_local().calls("RunTask"), 2);
    assert!(cluster.as_local().calls("ListTasks") >= 1);
    assert_eq!(job.run("build_script", "echo fine").stdout, b"fine\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Permanent refusals are not retried, neither during the launch nor while the task starts.
fn a_permission_that_is_missing_ends_prepare(cluster: &Cluster) {
    let job = Job::on(cluster);
    let denied = refusal(
        400,
        "AccessDeniedException",
        "User: x is not authorized to perform: ecs:DescribeTasks",
        50,
    );
    cluster
        .as_local()
        .set_faults(&json!({ "refuse": { "DescribeTasks": denied }, "ssh": { "late_ms": 60_000 }, "exec": { "late_ms": 60_000 } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("ecs:DescribeTasks") && prepared.stderr.contains("docs/iam.md"),
        "{}",
        prepared.stderr
    );
    cluster.as_local().set_faults(&json!({}));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_cancelled_prepare_stops_its_task_itself_even_when_the_first_stop_is_refused(
    cluster: &Cluster,
) {
    let mut faults = cluster.never_lets_in();
    faults["throttle"] = json!({ "StopTask": 1 });
    let job = Job::on(cluster);
    cluster.as_local().set_faults(&faults);
    let prepare = job.spawn(&["prepare"]);
    eventually("a task is launched", || !cluster.tasks().is_empty());
    Job::cancel(&prepare);
    let prepared = job.end(prepare);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    // Before any cleanup.
    eventually("its task has stopped", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED")
    });
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Explains a container's death: ECS's own words, their meaning, and a remedy.
fn a_container_that_was_killed_for_its_memory_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let script = job.script("echo begun; sleep 600").display().to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    std::io::Read::read_exact(run.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    cluster.as_local().crash_tasks(&json!({
        "code": "EssentialContainerExited", "reason": "Essential container in task exited",
        "container_reason": "OutOfMemoryError: Container killed due to memory usage", "exit_code": 137,
    }));
    let run = job.end(run);
    assert_eq!((run.code, run.stdout.as_slice()), (SYSTEM_FAILURE, &b""[..]), "{run:#?}");
    for word in
        ["more memory", "OutOfMemoryError", "137", "EssentialContainerExited", "Raise memory"]
    {
        assert!(run.stderr.contains(word), "{word:?} is not in: {}", run.stderr);
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_secret_that_cannot_be_read_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    let reason = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: AccessDeniedException";
    cluster
        .as_local()
        .set_faults(&json!({ "stops_early": { "code": "TaskFailedToStart", "reason": reason } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    for word in ["TaskFailedToStart", "unable to retrieve secret", "execution role"] {
        assert!(prepared.stderr.contains(word), "{word:?} is not in: {}", prepared.stderr);
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_task_that_somebody_stops_mid_script_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script("echo begun; sleep 600").display().to_string(),
        "build_script",
    ]);
    std::io::Read::read_exact(run.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let arn = cluster.as_local().get("/_tasks")[0]["arn"].as_str().unwrap().to_owned();
    cluster.ecs("StopTask", &json!({ "cluster": "local", "task": arn, "reason": "cost control" }));
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    for word in ["UserInitiated", "cost control", "CloudTrail"] {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// gitlab-runner's second `prepare` ends the first one's task, and is cancelled meanwhile.
#[test]
fn a_prepare_that_is_cancelled_while_it_ends_an_earlier_task_launches_none() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    cluster.as_local().set_faults(&json!({ "throttle": { "StopTask": u32::MAX } }));
    let again = job.spawn(&["prepare"]);
    eventually("the first task is being ended", || job.snapshot().contains("Stopping("));
    Job::cancel(&again);
    cluster.as_local().set_faults(&json!({}));
    let ended = job.end(again);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("cancelled before a task was launched"), "{}", ended.stderr);
    // ECS has accepted the stop, and a service's stage ends at once then.
    eventually("the task is ended", || cluster.tasks().iter().all(|of| of.status != "STOPPING"));
    cluster.assert_nothing_is_left(1);
    job.cleanup();
}

/// Every call is throttled for a minute, from before the launch on.
fn a_minute_of_throttling(cluster: &Cluster) {
    let job = Job::on(cluster);
    let every =
        ["RunTask", "DescribeTasks", "StopTask", "ListTasks", "ExecuteCommand", "TerminateSession"];
    let everything = json!({ "throttle": every.map(|action| (action, u32::MAX)).into_iter().collect::<std::collections::BTreeMap<_, _>>() });
    cluster.as_local().set_faults(&everything);
    let began = Instant::now();
    let prepare = job.spawn(&["prepare"]);
    // The fault itself lasts a minute.
    std::thread::sleep(Duration::from_secs(60));
    let tried = cluster.as_local().calls("RunTask");
    assert!(
        (3..=15).contains(&tried),
        "{tried} calls of RunTask in a minute of throttling: neither given up nor hammered"
    );
    cluster.as_local().set_faults(&json!({}));
    let prepared = job.end(prepare);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("rate limit"), "{}", prepared.stderr);
    assert_eq!(job.run("build_script", "exit 4").script_code.as_deref(), Some("4"));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    println!(
        "ready {:.0} s after the first call, {tried} of them throttled",
        began.elapsed().as_secs_f64()
    );
}

/// A tenth of all calls is throttled, fails, or succeeds without an answer.
fn two_hundred_jobs_while_a_tenth_of_all_calls_fails(cluster: &Cluster) {
    const JOBS: usize = 200;
    cluster.as_local().set_faults(&json!({ "random": { "percent": 10 } }));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= JOBS {
                        break;
                    }
                    let job = Job::on(cluster);
                    job.prepare();
                    let code = number % 7;
                    let run = job.run(
                        "build_script",
                        format!(
                            "echo run >>\"$TMPDIR/runs\"; wc -l <\"$TMPDIR/runs\"; exit {code}"
                        ),
                    );
                    let reported = (run.code, run.script_code.unwrap_or_else(|| "0".to_owned()));
                    assert_eq!(
                        reported,
                        (if code == 0 { 0 } else { BUILD_FAILURE }, code.to_string()),
                        "{}\n{}",
                        run.stderr,
                        job.log()
                    );
                    assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), "1");
                    job.cleanup();
                    assert_eq!((job.files(".ron").len(), job.archived().len()), (0, 1));
                }
            });
        }
    });
    let calls = cluster.as_local().get("/_calls");
    let calls = calls.as_array().unwrap();
    let failed = calls.iter().filter(|call| !call["error"].is_null()).count();
    println!("{JOBS} jobs, {} calls, {failed} of them failed", calls.len());
    assert!(
        failed * 20 > calls.len(),
        "a tenth of the calls was to fail: {failed} of {}",
        calls.len()
    );
    // One task per job, and all have ended: no job launched twice.
    cluster.assert_nothing_is_left(JOBS);
}
