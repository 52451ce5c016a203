//! More than the service takes on: the rest is done by the stages' processes, and no job notices.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::by_every_transport,
    processes::peak,
    runner::{Alone, BUILD_FAILURE, Job},
    serve::Service,
};

by_every_transport!(
    stages_that_the_service_does_not_admit_do_their_work_themselves,
    a_flood_of_output_does_not_hold_up_other_jobs,
    a_client_that_never_reads_holds_up_no_other_job,
    jobs_share_their_calls_of_describe_tasks
        (not by pipes: "pipes make no call to AWS, so the calls are those of SSH"),
);

/// Lines of the manager's log with these words.
fn lines(manager: &Job, what: &str) -> usize {
    manager.log().matches(what).count()
}

/// By its limit of open files, the service hosts six stages. Twelve run at the same time.
fn stages_that_the_service_does_not_admit_do_their_work_themselves(cluster: &Cluster) {
    const JOBS: usize = 12;
    const ADMITTED: usize = 6;
    let manager = Job::on(cluster).alone(Alone::HasOwnService);
    let few = ["sh", "-c", "ulimit -n 220; exec \"$0\" \"$@\""];
    let _service = Service::start_under(&few, &manager).unwrap();
    assert_eq!(lines(&manager, &format!("up to {ADMITTED} stages at once")), 1);
    let jobs: Vec<Job> = (0..JOBS).map(|_| manager.beside(cluster)).collect();
    thread::scope(|scope| jobs.iter().for_each(|job| drop(scope.spawn(|| job.prepare()))));
    let (begun, go) = (manager.path("begun"), manager.path("go"));
    let runs: Vec<_> = jobs
        .iter()
        .enumerate()
        .map(|(number, job)| {
            let (begun, go) = (begun.display(), go.display());
            let script = job.script(format!(
                "echo {number} >>'{begun}'; until [ -e '{go}' ]; do sleep 0.05; done; echo {number}; exit {number}"
            ));
            job.spawn(&["run", &script.display().to_string(), "build_script"])
        })
        .collect();
    eventually("all scripts run at once", || {
        fs::read_to_string(&begun).is_ok_and(|begun| begun.lines().count() == JOBS)
    });
    let log = manager.log();
    let is_hosted = |line: &&str| line.contains("hosted by") && line.contains("run build_script");
    assert_eq!(log.lines().filter(is_hosted).count(), ADMITTED, "{log}");
    fs::write(&go, "").unwrap();
    for (number, (job, run)) in jobs.iter().zip(runs).enumerate() {
        let run = job.end(run);
        assert_eq!(run.stdout, format!("{number}\n").as_bytes(), "{run:#?}");
        assert_eq!(run.code, if number == 0 { 0 } else { BUILD_FAILURE }, "{run:#?}");
    }
    thread::scope(|scope| jobs.iter().for_each(|job| drop(scope.spawn(|| job.cleanup()))));
    assert_eq!(lines(&manager, "Too many open files"), 0, "{}", manager.log());
    cluster.assert_nothing_is_left(JOBS);
}

/// The output of one job comes as fast as it can.
fn a_flood_of_output_does_not_hold_up_other_jobs(cluster: &Cluster) {
    let flood = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&flood);
    let other = flood.beside(cluster);
    flood.prepare();
    other.prepare();
    let script = flood.script("yes a line | head -c 300000000; sleep 600").display().to_string();
    let mut child = flood.spawn(&["run", &script, "build_script"]);
    let mut stdout = child.stdout.take().unwrap();
    let drained = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&drained);
    let draining = thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stdout.read(&mut buffer).unwrap() {
                0 => return,
                size => drop(counter.fetch_add(size, Ordering::Relaxed)),
            }
        }
    });
    eventually("the flood has begun", || drained.load(Ordering::Relaxed) > 0);
    let before = drained.load(Ordering::Relaxed);
    let runs = [0, 1, 2].map(|number| other.run("step_script", format!("echo {number}")));
    let meanwhile = drained.load(Ordering::Relaxed) - before;
    Job::cancel(&child);
    assert!(child.wait().unwrap().code().is_some());
    draining.join().unwrap();
    println!("{meanwhile} bytes of output during three stages of another job");
    assert!(meanwhile > 1_000_000, "the flood was held up, too: {meanwhile} bytes");
    for (number, run) in runs.into_iter().enumerate() {
        assert_eq!((run.code, run.stdout), (0, format!("{number}\n").into_bytes()));
    }
    let peak = peak(service.process.id());
    assert!(peak < 256 * 1024, "the service took {peak} KiB");
    for job in [&flood, &other] {
        job.cleanup();
    }
    cluster.assert_nothing_is_left(2);
}

/// A stage's process that is stopped reads nothing and answers nothing, as long as it lives.
fn a_client_that_never_reads_holds_up_no_other_job(cluster: &Cluster) {
    let deaf = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&deaf);
    deaf.prepare();
    let script =
        deaf.script("echo begun; yes a line | head -c 20000000; sleep 600").display().to_string();
    let mut child = deaf.spawn(&["run", &script, "build_script"]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let other = deaf.beside(cluster);
    other.prepare();
    let before = peak(service.process.id());
    for number in 0..5 {
        let run = other.run("step_script", format!("echo {number}"));
        assert_eq!((run.code, run.stdout), (0, format!("{number}\n").into_bytes()));
    }
    other.cleanup();
    let after = peak(service.process.id());
    assert!(after < before + 64 * 1024, "{before} KiB, then {after} KiB");
    // gitlab-runner gives up and kills it: the next stage ends its script.
    child.kill().unwrap();
    child.wait().unwrap();
    let next = deaf.run("after_script", "echo after");
    assert!(next.code == 0 && next.stdout.ends_with(b"after\n"), "{}", next.stderr);
    deaf.cleanup();
    cluster.assert_nothing_is_left(2);
}

/// Each job would make a call for each of its looks, in a process of its own.
fn jobs_share_their_calls_of_describe_tasks(cluster: &Cluster) {
    const JOBS: usize = 24;
    let local = cluster.as_local();
    let manager = Job::on(cluster).alone(Alone::HasOwnService);
    // A task that does not start is described again and again.
    local.set_faults(&serde_json::json!({ "never_starts": true }));
    let _service = Service::start(&manager);
    let jobs: Vec<Job> = (0..JOBS).map(|_| manager.beside(cluster)).collect();
    let preparing: Vec<_> = jobs.iter().map(|job| job.spawn(&["prepare"])).collect();
    eventually("each job was looked at some times", || lines(&manager, "described") >= 4 * JOBS);
    let (calls, looks) = (local.calls("DescribeTasks"), lines(&manager, "described"));
    println!("{calls} calls of DescribeTasks for {looks} looks of {JOBS} jobs");
    assert!(calls * 3 <= looks, "{calls} calls for {looks} looks");
    // The rate's own test counts each second, on paused time. Here, calls may arrive late and together.
    let most = local.most_within(5, "DescribeTasks");
    assert!(most <= 25, "{most} calls of DescribeTasks in five seconds");
    for child in &preparing {
        Job::cancel(child);
    }
    for (job, child) in jobs.iter().zip(preparing) {
        job.end(child);
        job.cleanup();
    }
    cluster.assert_nothing_is_left(JOBS);
}

#[test]
fn connections_that_ask_nothing_keep_no_stage_waiting() {
    /// As many as the service lets ask at the same time, with the limit of files that it has here.
    const MOST: usize = 256;
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    let connect = || UnixStream::connect(job.metadata.join("fargate.sock")).unwrap();
    // A refusal comes at once, and the end with it; without one, the service waits for a greeting.
    let is_refused = |mut stream: &UnixStream, within| {
        stream.set_read_timeout(Some(Duration::from_millis(within))).unwrap();
        let waits = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        !stream.read(&mut [0; 1]).is_err_and(waits)
    };
    let mut silent = Vec::new();
    loop {
        let mut stream = connect();
        // Those that say something and then nothing are no better. One that is refused may be closed
        // before it has said it.
        let is_closed = silent.len() % 2 == 0 && stream.write_all(b"h").is_err();
        if is_closed || is_refused(&stream, 5) {
            break;
        }
        silent.push(stream);
    }
    assert!(silent.len() >= MOST, "{}", silent.len());
    let refused = lines(&job, "too many connections ask nothing");
    job.prepare();
    assert!(lines(&job, "too many connections ask nothing") > refused, "{}", job.log());
    assert_eq!(lines(&job, "hosted by the service"), 0);
    drop(silent);
    eventually("the service takes stages again", || {
        assert_eq!(job.run("build_script", "echo here").stdout, b"here\n");
        lines(&job, "hosted by the service") == 1
    });
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
