//! Stages through the manager's service, `fargate serve`: as without it, and as if it had never been
//! there when it dies.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use fargate_driver::{
    service::protocol::{Decoder, Hello, Message, ToClient, ToService},
    stages::Attempt,
};
use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    eventually,
    jobs::assert_lines,
    parametrised::by_every_transport,
    runner::{Alone, BUILD_FAILURE, Job, SYSTEM_FAILURE},
    serve::Service,
};

by_every_transport!(
    a_job_passes_through_the_service,
    output_of_the_service_is_not_changed,
    a_cancel_is_passed_on,
    a_cancel_does_not_wait_for_a_service_that_hangs,
    twenty_jobs_of_one_service,
    a_service_that_is_killed_loses_and_repeats_nothing,
    a_service_that_is_killed_at_any_time_loses_and_repeats_nothing,
    a_service_that_ends_hands_over,
    a_service_that_dies_during_prepare_leaves_one_task,
    the_service_lets_go_of_the_job_of_a_killed_stage,
    others_may_work_on_the_job_between_two_stages,
    ended_jobs_are_archived_in_the_background,
);

/// How much of the run's output is marked as written.
fn marked(job: &Job) -> u64 {
    let files = job.files(".offset");
    let text = files.first().map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|offset| offset.parse().ok()).unwrap_or(0)
}

/// How many stages the service has hosted.
fn hosted(job: &Job) -> usize {
    job.log().matches("hosted by the service").count()
}

/// A script that writes the numbers below `count`, ten in a moment, and ends with status 7. It fails
/// if it runs twice.
fn counting(count: u32) -> String {
    format!(
        "mkdir \"$TMPDIR/once\" || exit 9\ni=0\nwhile [ $i -lt {count} ]; do echo $i; i=$((i+1)); \
         case $i in *0) sleep 0.05;; esac; done\nexit 7\n"
    )
}

fn counted(count: u32) -> String {
    (0..count).map(|i| format!("{i}\n")).collect()
}

fn a_job_passes_through_the_service(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&job);
    let socket = job.metadata.join("fargate.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    for line in ["launched in cluster", "container is ready after"] {
        assert!(prepared.stderr.contains(line), "{}", prepared.stderr);
    }
    for number in 1..=5 {
        let run = job.run(
            "build_script",
            "echo once >>\"$TMPDIR/runs\"; wc -l <\"$TMPDIR/runs\"; echo error >&2; exit 42",
        );
        assert_eq!(
            (run.code, run.script_code.as_deref()),
            (BUILD_FAILURE, Some("42")),
            "{run:#?}\n{}",
            job.log()
        );
        assert_eq!(
            String::from_utf8(run.stdout).unwrap().split_whitespace().collect::<Vec<_>>(),
            [number.to_string().as_str(), "error"]
        );
        assert_eq!(run.stderr, "", "nothing of the driver's own in the job log");
    }
    if let Cluster::Local(local) = cluster
        && cluster.is_by_ecs_exec()
    {
        assert_eq!(local.calls("ExecuteCommand"), 1, "the stages share a connection");
    }
    job.cleanup_as_gitlab_runner();
    assert_eq!(hosted(&job), 7, "{}", job.log());
    service.signal(Signal::TERM);
    let mut service = service;
    assert!(service.process.wait().unwrap().success());
    assert!(!socket.exists(), "no stage asks a service that has ended");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn output_of_the_service_is_not_changed(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    job.prepare();
    let all: String = (0..=255).map(|byte| format!("\\{byte:03o}")).collect();
    let run = job.run("build_script", format!("printf '{all}'; printf no-newline"));
    let expected = [&(0..=255).collect::<Vec<u8>>()[..], b"no-newline"].concat();
    assert_eq!((run.code, run.stdout), (0, expected), "{}", job.log());
    let length = 30_000_007;
    let script = job.script(format!("yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {length}"));
    let mut child = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    assert_lines(&mut child, length);
    assert_eq!(job.end(child).code, 0);
    let script = format!("{}\necho end\n", "# a line of a script\n".repeat(250_000));
    let run = job.run("build_script", script);
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"end\n"[..]), "{}", run.stderr);
    assert_eq!(hosted(&job), 4);
    job.cleanup();
}

fn a_cancel_is_passed_on(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    job.prepare();
    let script =
        job.script("trap 'echo ending; exit 3' TERM; echo begun; while :; do sleep 0.05; done");
    let mut child = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    Job::cancel(&child);
    let ended = job.end(child);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("was cancelled"), "{}", ended.stderr);
    // The shell may say that its `sleep` was ended.
    assert!(ended.stdout.ends_with(b"ending\n"), "{ended:#?}");
    assert_eq!(hosted(&job), 2);
    let after = job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_cancel_does_not_wait_for_a_service_that_hangs(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&job);
    job.prepare();
    let script = job.script("echo begun; while :; do sleep 0.05; done");
    let mut child = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    service.signal(Signal::STOP);
    Job::cancel(&child);
    eventually("the stage goes on by itself", || job.log().contains("it is silent"));
    // It still holds the job's lock, so it has to end.
    drop(service);
    let ended = job.end(child);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("was cancelled"), "{}", ended.stderr);
    let after = job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]), "the script has ended");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn twenty_jobs_of_one_service(cluster: &Cluster) {
    let first = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&first);
    let jobs: Vec<Job> = (0..20).map(|_| first.beside(cluster)).collect();
    thread::scope(|scope| {
        for (number, job) in jobs.iter().enumerate() {
            scope.spawn(move || {
                job.prepare();
                let run = job.run("build_script", format!("echo {number}; exit {number}"));
                assert_eq!(run.stdout, format!("{number}\n").as_bytes(), "{run:#?}");
                assert_eq!(run.code, if number == 0 { 0 } else { BUILD_FAILURE }, "{run:#?}");
                job.cleanup();
            });
        }
    });
    assert_eq!(hosted(&first), 20 * 4);
    cluster.assert_nothing_is_left(20);
}

/// Runs a counting script, does `then` when it has begun, and checks that nothing was lost.
fn counts_on(job: &Job, then: impl FnOnce()) {
    let script = job.script(counting(300));
    let mut child = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 30];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    then();
    let ended = job.end(child);
    let output = [&begun[..], &ended.stdout].concat();
    assert_eq!(String::from_utf8(output).unwrap(), counted(300), "{}", ended.stderr);
    assert_eq!(
        (ended.code, ended.script_code.as_deref()),
        (BUILD_FAILURE, Some("7")),
        "{}\n{}",
        ended.stderr,
        job.log()
    );
}

fn a_service_that_is_killed_loses_and_repeats_nothing(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&job);
    job.prepare();
    counts_on(&job, || drop(service));
    assert_eq!(hosted(&job), 2);
    let _service = Service::start(&job);
    assert_eq!(job.run("after_script", "echo after").stdout, b"after\n");
    assert_eq!(hosted(&job), 3, "a new service takes the next stage");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Kills a service at moments of a whole run, from before its beginning until after its end.
fn a_service_that_is_killed_at_any_time_loses_and_repeats_nothing(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    Service::start(&job);
    job.prepare();
    let mut is_over = false;
    for moment in 0.. {
        let service = Service::start(&job);
        let mark = format!("\"$TMPDIR/run{moment}\"");
        let script = format!(
            "mkdir {mark} || exit 9\nfor i in 1 2 3 4 5; do echo $i; sleep 0.01; done; exit 7\n"
        );
        let script = job.script(script).display().to_string();
        let begun = Instant::now();
        let mut stage = job.spawn(&["run", &script, "build_script"]);
        // The moments are what is tested: each leads to the same result.
        let kill_at = Duration::from_millis(8 * moment);
        while begun.elapsed() < kill_at && !is_over {
            is_over = stage.try_wait().unwrap().is_some();
            thread::sleep(Duration::from_millis(1));
        }
        drop(service);
        let ended = job.end(stage);
        assert_eq!(
            (ended.script_code.as_deref(), ended.stdout.as_slice()),
            (Some("7"), &b"1\n2\n3\n4\n5\n"[..]),
            "killed after {kill_at:?}: {ended:#?}\n{}",
            job.log()
        );
        if is_over {
            break;
        }
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_service_that_ends_hands_over(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let mut service = Service::start(&job);
    job.prepare();
    counts_on(&job, || service.signal(Signal::TERM));
    assert!(service.process.wait().unwrap().success());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_service_that_dies_during_prepare_leaves_one_task(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let service = Service::start(&job);
    let preparing = job.spawn(&["prepare"]);
    eventually("a task is launched", || !cluster.tasks().is_empty());
    drop(service);
    let prepared = job.end(preparing);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert_eq!(job.run("build_script", "echo here").stdout, b"here\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn the_service_lets_go_of_the_job_of_a_killed_stage(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    job.prepare();
    let script = job.script(counting(300)).display().to_string();
    let mut child = job.spawn(&["run", &script, "get_sources"]);
    let mut begun = [0; 30];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    // A process that is killed between a write and its mark leaves that write to be repeated.
    eventually("the output is marked", || marked(&job) >= 30);
    child.kill().unwrap();
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    child.wait().unwrap();
    let again = job.stage(&["run", &script, "get_sources"]);
    assert_eq!(again.script_code.as_deref(), Some("7"), "{again:#?}\n{}", job.log());
    let output = [&begun[..], &rest, &again.stdout].concat();
    assert_eq!(String::from_utf8(output).unwrap(), counted(300), "it continues where it was");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn others_may_work_on_the_job_between_two_stages(cluster: &Cluster) {
    let mut job = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    job.prepare();
    for stage in 1..=3 {
        assert_eq!(job.run("get_sources", "echo served").stdout, b"served\n");
        // Another setting of the SDK: this stage is not the service's.
        job.set("AWS_SDK_UA_APP_ID", "other");
        let alone = job.run("build_script", "echo alone");
        assert_eq!((alone.code, alone.stdout.as_slice()), (0, &b"alone\n"[..]), "{alone:#?}");
        assert_eq!(alone.stderr, "");
        job.unset("AWS_SDK_UA_APP_ID");
        assert_eq!(hosted(&job), 1 + stage);
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn ended_jobs_are_archived_in_the_background(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    job.prepare();
    job.cleanup_as_gitlab_runner();
    eventually("the job is archived", || job.archived().len() == 1 && job.files(".ron").is_empty());
    cluster.assert_nothing_is_left(1);
}

/// A listener at the job's socket that is no service.
fn listen(job: &Job) -> UnixListener {
    fs::create_dir_all(&job.metadata).unwrap();
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o700)).unwrap();
    UnixListener::bind(job.metadata.join("fargate.sock")).unwrap()
}

fn receive(stream: &mut UnixStream, decoder: &mut Decoder) -> ToService {
    loop {
        if let Some(message) = decoder.message().unwrap() {
            return message;
        }
        let mut bytes = [0; 4096];
        let size = stream.read(&mut bytes).unwrap();
        assert_ne!(size, 0);
        decoder.buffer().extend_from_slice(&bytes[..size]);
    }
}

#[test]
fn a_service_of_another_version_is_not_used() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    let listener = listen(&job);
    let other = thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let ToService::Hello(hello) = receive(&mut stream, &mut Decoder::default()) else {
                panic!("no greeting")
            };
            let older = Hello { driver: "0.0.9".to_owned(), ..hello };
            stream.write_all(&ToClient::Hello(older).frame()).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "nothing is asked of it");
        }
    });
    job.prepare();
    assert_eq!(job.run("build_script", "echo here").stdout, b"here\n");
    job.cleanup_as_gitlab_runner();
    other.join().unwrap();
    assert!(job.log().contains("the service is fargate 0.0.9, and this is"), "{}", job.log());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// systemd may start the service before there is the network by which an instance learns its region.
#[test]
fn a_service_may_learn_its_region_later() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster).alone(Alone::HasOwnService);
    let text = fs::read_to_string(&job.config).unwrap();
    let without = text.replace("Region = \"us-east-1\"\n", "");
    assert_ne!(without, text);
    fs::write(&job.config, without).unwrap();
    let profiles = job.path("profiles");
    job.set("AWS_CONFIG_FILE", &profiles.display().to_string());
    let _service = Service::start(&job);
    let prepare = job.spawn(&["prepare"]);
    eventually("a launch fails without a region", || job.log().contains("missing signing region"));
    fs::write(&profiles, "[default]\nregion = us-east-1\n").unwrap();
    let prepared = job.end(prepare);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert_eq!(hosted(&job), 1, "{}", job.log());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// The service dies between a script's end, which is saved, and its verdict.
#[test]
fn a_run_that_is_over_is_not_repeated_when_the_service_dies_before_its_verdict() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    job.prepare();
    let ledger = job.path("ledger");
    let script = job.script(format!("echo ran >>'{}'; echo said; exit 42", ledger.display()));
    let script = script.display().to_string();
    let listener = listen(&job);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            // What the service does, another process does: it finds no socket.
            fs::remove_file(job.metadata.join("fargate.sock")).unwrap();
            let mut decoder = Decoder::default();
            let ToService::Hello(hello) = receive(&mut stream, &mut decoder) else {
                panic!("no greeting")
            };
            stream.write_all(&ToClient::Hello(hello).frame()).unwrap();
            let ToService::Request(_) = receive(&mut stream, &mut decoder) else {
                panic!("no request")
            };
            let ToService::Script(_) = receive(&mut stream, &mut decoder) else {
                panic!("no script")
            };
            let begins = Attempt { key: "0000-build_script".to_owned(), offset: 0 };
            for message in [ToClient::Accepted, ToClient::Begins(begins)] {
                stream.write_all(&message.frame()).unwrap();
            }
            let ToService::Heard = receive(&mut stream, &mut decoder) else { panic!("not heard") };
            let done = job.stage(&["run", &script, "build_script"]);
            assert_eq!(done.stdout, b"said\n", "{done:#?}");
            stream.write_all(&ToClient::Output(done.stdout.into()).frame()).unwrap();
            let ToService::Acknowledged(5) = receive(&mut stream, &mut decoder) else {
                panic!("not acknowledged")
            };
        });
        let run = job.stage(&["run", &script, "build_script"]);
        assert_eq!(
            (run.code, run.script_code.as_deref(), run.stdout.as_slice()),
            (BUILD_FAILURE, Some("42"), &b"said\n"[..]),
            "{run:#?}\n{}",
            job.log()
        );
    });
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "ran\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn an_unanswered_socket_costs_a_moment() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    job.prepare();
    let silent = listen(&job);
    let begun = Instant::now();
    assert_eq!(job.run("build_script", "echo here").stdout, b"here\n");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(silent);
    assert_eq!(job.run("build_script", "echo closed").stdout, b"closed\n", "{}", job.log());
    fs::remove_file(job.metadata.join("fargate.sock")).unwrap();
    fs::write(job.metadata.join("fargate.sock"), "").unwrap();
    assert_eq!(job.run("build_script", "echo file").stdout, b"file\n", "{}", job.log());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_directory_has_one_service() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    let service = Service::start(&job);
    let second = Service::command(&job).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(SYSTEM_FAILURE), "{said}");
    assert!(
        said.contains(&format!("served already, by process {}", service.process.id())),
        "{said}"
    );
    drop(service);
    // What a killed one has left hinders no other.
    let _service = Service::start(&job);
    job.prepare();
    job.cleanup();
    assert_eq!(hosted(&job), 3);
}

#[test]
fn a_service_ignores_those_that_do_not_speak_its_protocol() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster).alone(Alone::HasOwnService);
    let _service = Service::start(&job);
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"h\xff\xff\xff\xff", b"r\0\0\0\x02{}", b"h\0\0\0\x02{}"]
    {
        let mut stream = UnixStream::connect(job.metadata.join("fargate.sock")).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // An error: the service has closed the connection before it read everything.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{bytes:?}");
    }
    job.prepare();
    job.cleanup();
    assert_eq!(hosted(&job), 3);
}
