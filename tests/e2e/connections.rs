//! Connections that break, on real parts: OpenSSH behind a proxy that cuts and freezes them.

use std::{io::Read, net::SocketAddr, process::Child, sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    cluster::Cluster,
    eventually,
    jobs::{assert_lines, lines_script},
    moto::{self, Moto},
    proxy::{
        Fault, Proxy,
        Way::{self, ToClient, ToServer},
        What::{self, Close, Freeze, Reset},
    },
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

/// Silence is noticed after so many seconds: a second until the first question, and three questions.
const QUICK: &str = "[SSH]\nUsername = \"root\"\nKeepAlive = \"1s\"\n";

/// A job on moto whose containers stand behind the proxy.
fn behind(proxy: &Arc<Proxy>) -> (Cluster, Job) {
    let cluster = Cluster::moto_behind(proxy);
    let job = Job::on(&cluster);
    (cluster, job)
}

/// The same, with keep-alives every second.
fn behind_and_impatient(proxy: &Arc<Proxy>, more: &str) -> (Cluster, Job) {
    let cluster = Cluster::moto_behind(proxy);
    let job = Job::with(&cluster, more);
    let text = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, text.replace("[SSH]\nUsername = \"root\"\n", QUICK)).unwrap();
    (cluster, job)
}

fn moto(cluster: &Cluster) -> &Moto {
    match cluster {
        Cluster::Moto(moto) => moto,
        Cluster::Local(_) => unreachable!("these tests are of moto"),
    }
}

fn fault(way: Way, after: u64, what: What) -> Fault {
    Fault { way, after, what }
}

/// Starts a script as a stage and waits until it has said "begun".
fn begun(job: &Job, script: &str) -> Child {
    let mut run = job.spawn(&["run", &job.script(script).display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    run.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap_or_else(|e| panic!("{e}: {:#?}", job.log()));
    assert_eq!(&begun, b"begun\n");
    run
}

/// A script that waits for a file after its first line, and then ends with 3.
const WAITS: &str = "echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; echo done; exit 3";

/// Makes that file, as an engineer in the container would.
fn release(cluster: &Cluster) {
    let places = crate::processes::task_processes(cluster).into_iter().filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let place = environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(b"TMPDIR="))?;
        Some(String::from_utf8_lossy(place).into_owned())
    });
    let place = places.into_iter().next().expect("the script is alive");
    std::fs::write(format!("{place}/go"), "").unwrap();
}

/// Runs one script again and again; each time the connection breaks a little later.
fn cut_everywhere(way: Way, what: What) {
    let proxy = Proxy::new();
    let (cluster, job) = behind(&proxy);
    job.prepare();
    // Counts its own runs, carries some weight to the container, and sends some back.
    let script = format!(
        "# {}\necho run >>\"$TMPDIR/runs\"\nwc -l <\"$TMPDIR/runs\"\ni=0\nwhile [ $i -lt 100 ]; do echo \"line $i of a hundred\"; i=$((i+1)); done\nexit 5\n",
        "x".repeat(2000)
    );
    let lines: String = (0..100).map(|i| format!("line {i} of a hundred\n")).collect();
    let mut runs = 0;
    let mut run = |after: Option<u64>| {
        runs += 1;
        proxy.plan(after.map(|after| fault(way, after, what)));
        let run = job.run("build_script", &script);
        let context = format!("{what:?} after {after:?} bytes {way:?}: {}\n{}", run.stderr, job.log());
        assert_eq!((run.code, run.script_code.as_deref()), (BUILD_FAILURE, Some("5")), "{context}");
        assert_eq!(String::from_utf8_lossy(&run.stdout).trim_start(), format!("{runs}\n{lines}"), "it ran once; {context}");
        proxy.clear();
    };
    run(None);
    let whole = proxy.carried(way);
    assert!(whole > 3000, "{whole} bytes");
    // The banner byte by byte, then steps that are shorter than any message of the handshake and of the script's delivery.
    let points: Vec<u64> = [0, 1, 20, 22].into_iter().chain((1..=32).map(|step| whole * step / 34)).collect();
    for after in &points {
        run(Some(*after));
    }
    // The last ones may come after the verdict, when the driver has said goodbye.
    assert!(proxy.happened() >= points.len() - 6, "{} of {} cuts happened", proxy.happened(), points.len());
    println!("{} runs, {} of them cut ({what:?}) at another of {whole} bytes {way:?}", points.len(), proxy.happened());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn reset_at_any_byte_from_the_container() {
    cut_everywhere(ToClient, Reset);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn reset_at_any_byte_to_the_container() {
    cut_everywhere(ToServer, Reset);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn closed_at_any_byte_from_the_container() {
    cut_everywhere(ToClient, Close);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn closed_at_any_byte_to_the_container() {
    cut_everywhere(ToServer, Close);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn prepare_gets_through_connections_that_are_cut_at_any_byte() {
    let proxy = Proxy::new();
    let (cluster, job) = behind(&proxy);
    let faults: Vec<Fault> = (0..60)
        .map(|step| {
            let way = if step % 2 == 0 { ToClient } else { ToServer };
            fault(way, step * 45, if step % 3 == 0 { Close } else { Reset })
        })
        .collect();
    let planned = faults.len();
    proxy.plan(faults);
    job.prepare();
    proxy.clear();
    // The later ones lie behind the end of what prepare needs to say.
    assert!(proxy.happened() >= planned / 2, "only {} cuts happened", proxy.happened());
    assert_eq!(job.run("build_script", "echo fine").stdout, b"fine\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn three_hundred_megabytes_over_connections_that_are_cut_again_and_again() {
    const LENGTH: usize = 300_000_000;
    let proxy = Proxy::new();
    let (cluster, job) = behind(&proxy);
    job.prepare();
    let cuts = (0..30).map(|i| fault(ToClient, 5_000_000 + i * 333_333, if i % 2 == 0 { Reset } else { Close }));
    proxy.plan(cuts);
    let mut run = job.spawn(&["run", &job.script(lines_script(LENGTH)).display().to_string(), "build_script"]);
    assert_lines(&mut run, LENGTH);
    let ended = job.end(run);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(proxy.happened(), 30, "{}", ended.stderr);
    let told = |what: &str| ended.stderr.matches(what).count();
    assert_eq!((told("connection to the container was lost"), told("Reconnected")), (30, 30), "one line each: {}", ended.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_while_output_flows() {
    const LENGTH: usize = 100_000_000;
    let proxy = Proxy::new();
    let (cluster, job) = behind_and_impatient(&proxy, "");
    job.prepare();
    proxy.plan([fault(ToClient, 20_000_000, Freeze)]);
    let mut run = job.spawn(&["run", &job.script(lines_script(LENGTH)).display().to_string(), "build_script"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the network vanishes", || proxy.is_frozen());
            eventually("the driver notices", || job.log().contains("connection lost"));
            proxy.thaw();
        });
        assert_lines(&mut run, LENGTH);
    });
    let ended = job.end(run);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("does not answer any more") && ended.stderr.contains("Reconnected"), "{}", ended.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_for_a_moment_is_not_even_mentioned() {
    const LENGTH: usize = 20_000_000;
    let proxy = Proxy::new();
    let (cluster, job) = behind(&proxy);
    job.prepare();
    proxy.plan([fault(ToClient, 5_000_000, Freeze)]);
    let mut run = job.spawn(&["run", &job.script(lines_script(LENGTH)).display().to_string(), "build_script"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the network vanishes", || proxy.is_frozen());
            // This is the fault itself: how long it lasts.
            std::thread::sleep(Duration::from_secs(2));
            proxy.thaw();
        });
        assert_lines(&mut run, LENGTH);
    });
    let ended = job.end(run);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_under_a_silent_script() {
    let proxy = Proxy::new();
    let (cluster, job) = behind_and_impatient(&proxy, "");
    job.prepare();
    let run = begun(&job, WAITS);
    proxy.freeze();
    eventually("the driver notices by its keep-alives", || job.log().contains("connection lost"));
    // It ends while nobody is connected.
    release(&cluster);
    proxy.thaw();
    let ended = job.end(run);
    assert_eq!((ended.script_code.as_deref(), ended.stdout.as_slice()), (Some("3"), &b"done\n"[..]), "{ended:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_in_the_handshake_and_in_the_delivery() {
    for (after, script) in [(400, String::new()), (5_000, String::new()), (700_000, "# a long script\n".repeat(100_000))] {
        let proxy = Proxy::new();
        let (cluster, job) = behind_and_impatient(&proxy, "");
        job.prepare();
        proxy.plan([fault(ToServer, after, Freeze)]);
        let script = format!("{script}echo run >>\"$TMPDIR/runs\"; wc -l <\"$TMPDIR/runs\"");
        let run = job.spawn(&["run", &job.script(script).display().to_string(), "build_script"]);
        eventually("the network vanishes", || proxy.is_frozen());
        eventually("the driver notices", || {
            let log = job.log();
            log.contains("connection lost") || log.contains("took too long")
        });
        proxy.thaw();
        let ended = job.end(run);
        assert_eq!((ended.code, String::from_utf8_lossy(&ended.stdout).trim()), (0, "1"), "after {after}: {ended:#?}\n{}", job.log());
        job.cleanup();
        cluster.assert_nothing_is_left(1);
    }
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_task_that_dies_while_nobody_can_connect_ends_the_stage_at_once() {
    let proxy = Proxy::new();
    // The connection's own deadline is later than the test's.
    let (cluster, job) = behind_and_impatient(&proxy, "[Deadlines]\nReconnect = \"1h\"\n");
    job.prepare();
    let run = begun(&job, WAITS);
    proxy.freeze();
    let (arn, _, _) = moto(&cluster).tasks().remove(0);
    moto::ecs(
        &moto(&cluster).endpoint,
        "StopTask",
        &json!({ "cluster": moto(&cluster).cluster, "task": arn, "reason": "maintenance of the test" }),
    );
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("maintenance of the test"), "ECS's own words: {}", ended.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_cancel_does_not_wait_for_a_network_that_vanished() {
    let proxy = Proxy::new();
    let cluster = Cluster::moto_behind(&proxy);
    // Silence would be noticed after an hour only.
    let job = Job::with(&cluster, "[Deadlines]\nGracePeriod = \"1s\"\nReconnect = \"1h\"\n");
    let text = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, text.replace("[SSH]\n", "[SSH]\nKeepAlive = \"15m\"\n")).unwrap();
    job.prepare();
    let run = begun(&job, WAITS);
    proxy.freeze();
    Job::cancel(&run);
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn an_ssh_server_that_is_killed_and_comes_back() {
    let cluster = Cluster::moto();
    let job = Job::on(&cluster);
    job.prepare();
    let run = begun(&job, WAITS);
    moto(&cluster).with_sshd(|sshd| {
        sshd.kill();
        eventually("the driver meets a closed door", || job.log().contains("nothing listens"));
        sshd.start_again(false);
    });
    eventually("it is back", || job.log().contains("reconnected"));
    release(&cluster);
    let ended = job.end(run);
    assert_eq!((ended.script_code.as_deref(), ended.stdout.as_slice()), (Some("3"), &b"done\n"[..]), "{ended:#?}");
    let told = |what: &str| ended.stderr.matches(what).count();
    assert_eq!((told("connection to the container was lost"), told("Reconnected")), (1, 1), "{}", ended.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn another_host_key_is_refused_and_explained() {
    let cluster = Cluster::moto();
    let job = Job::on(&cluster);
    job.prepare();
    let run = begun(&job, WAITS);
    moto(&cluster).with_sshd(|sshd| {
        sshd.kill();
        sshd.start_again(true);
    });
    let ended = job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("another SSH server answers") && ended.stderr.contains("SHA256:"), "{}", ended.stderr);
    // Nor is it spoken to afterwards.
    let after = job.run("after_script", "echo never");
    assert_eq!((after.code, after.stdout.as_slice()), (SYSTEM_FAILURE, &b""[..]), "{after:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Needs nothing installed: the API itself behind the proxy.
#[test]
fn answers_of_the_api_that_are_cut_off_leak_no_task() {
    let cluster = Cluster::local();
    let Cluster::Local(local) = &cluster else { unreachable!("it was started above") };
    let proxy = Proxy::new();
    let server: SocketAddr = local.endpoint.trim_start_matches("http://").parse().unwrap();
    let address = proxy.stand_before(SocketAddr::from(([127, 0, 0, 1], 0)), server);
    let mut job = Job::on(&cluster);
    job.set("AWS_ENDPOINT_URL", &format!("http://{address}"));
    // RunTask's request does not arrive, then its answer is lost, then cut in the middle; DescribeTasks and StopTask likewise.
    let cuts = [(ToServer, 100, Reset), (ToClient, 0, Reset), (ToClient, 200, Close), (ToClient, 300, Reset), (ToClient, 0, Close)];
    proxy.plan(cuts.map(|(way, after, what)| fault(way, after, what)));
    job.prepare();
    assert!(proxy.happened() >= 3, "{} cuts", proxy.happened());
    proxy.clear();
    assert_eq!(job.run("build_script", "echo fine").stdout, b"fine\n");
    proxy.plan([fault(ToClient, 0, Reset), fault(ToClient, 100, Close)]);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
