//! Broken connections, with real parts: OpenSSH behind a proxy that cuts and freezes connections.

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

/// In `[SSH]`: silence is noticed after so many seconds: a second until the first question, and
/// three questions.
const QUICK: &str = "KeepAlive = \"1s\"\n";

/// A prepared job.
struct Prepared {
    cluster: Cluster,
    job: Job,
}

impl Prepared {
    fn on(cluster: Cluster) -> Self {
        let job = Job::on(&cluster);
        job.prepare();
        Self { cluster, job }
    }

    /// On moto, with its containers behind the proxy.
    fn behind(proxy: &Arc<Proxy>) -> Self {
        Self::on(Cluster::moto_behind(proxy))
    }

    /// The same, with more in `[SSH]`, and more after it.
    fn configured(proxy: &Arc<Proxy>, ssh: &str, more: &str) -> Self {
        let cluster = Cluster::moto_behind(proxy);
        let job = Job::with(&cluster, more);
        let text = std::fs::read_to_string(&job.config).unwrap();
        std::fs::write(&job.config, text.replace("[SSH]\n", &format!("[SSH]\n{ssh}"))).unwrap();
        job.prepare();
        Self { cluster, job }
    }

    fn spawn(&self, script: impl AsRef<[u8]>) -> Child {
        self.job.spawn(&["run", &self.job.script(script).display().to_string(), "build_script"])
    }

    /// Starts a script as a stage and waits until it has said "begun".
    fn begin(&self, script: &str) -> Child {
        let mut run = self.spawn(script);
        let mut begun = [0; 6];
        run.stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut begun)
            .unwrap_or_else(|e| panic!("{e}: {:#?}", self.job.log()));
        assert_eq!(&begun, b"begun\n");
        run
    }

    /// Makes the file that [`WAITS`] waits for.
    fn release(&self) {
        crate::processes::release(&self.cluster);
    }

    fn moto(&self) -> &Moto {
        match &self.cluster {
            Cluster::Moto(moto) => moto,
            Cluster::Local(_) => unreachable!("these tests are of moto"),
        }
    }

    fn end(self) {
        self.job.cleanup();
        self.cluster.assert_nothing_is_left(1);
    }
}

fn fault(way: Way, after: u64, what: What) -> Fault {
    Fault { way, after, what }
}

/// A script that waits for a file after its first line, and then exits with 3.
const WAITS: &str =
    "echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; echo done; exit 3";

/// Runs one script repeatedly; each time the connection breaks a little later.
fn cut_everywhere(way: Way, what: What) {
    let proxy = Proxy::new();
    let at = Prepared::behind(&proxy);
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
        let run = at.job.run("build_script", &script);
        let context =
            format!("{what:?} after {after:?} bytes {way:?}: {}\n{}", run.stderr, at.job.log());
        assert_eq!((run.code, run.script_code.as_deref()), (BUILD_FAILURE, Some("5")), "{context}");
        assert_eq!(
            String::from_utf8_lossy(&run.stdout).trim_start(),
            format!("{runs}\n{lines}"),
            "it ran once; {context}"
        );
        proxy.clear();
    };
    run(None);
    let whole = proxy.carried(way);
    assert!(whole > 3000, "{whole} bytes");
    // The banner byte by byte, then steps that are shorter than any message of the handshake and of
    // the script's delivery.
    let points: Vec<u64> =
        [0, 1, 20, 22].into_iter().chain((1..=32).map(|step| whole * step / 34)).collect();
    for after in &points {
        run(Some(*after));
    }
    // The last faults may come after the verdict, when the driver has disconnected.
    assert!(
        proxy.happened() >= points.len() - 6,
        "{} of {} cuts happened",
        proxy.happened(),
        points.len()
    );
    println!(
        "{} runs, {} of them cut ({what:?}) at another of {whole} bytes {way:?}",
        points.len(),
        proxy.happened()
    );
    at.end();
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
    let faults: Vec<Fault> = (0..60)
        .map(|step| {
            let way = if step % 2 == 0 { ToClient } else { ToServer };
            fault(way, step * 45, if step % 3 == 0 { Close } else { Reset })
        })
        .collect();
    let planned = faults.len();
    proxy.plan(faults);
    let at = Prepared::behind(&proxy);
    proxy.clear();
    // The later faults lie beyond the bytes that `prepare` sends.
    assert!(proxy.happened() >= planned / 2, "only {} cuts happened", proxy.happened());
    assert_eq!(at.job.run("build_script", "echo fine").stdout, b"fine\n");
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn three_hundred_megabytes_survive_repeated_cuts() {
    const LENGTH: usize = 300_000_000;
    let proxy = Proxy::new();
    let at = Prepared::behind(&proxy);
    let cuts = (0..30)
        .map(|i| fault(ToClient, 5_000_000 + i * 333_333, if i % 2 == 0 { Reset } else { Close }));
    proxy.plan(cuts);
    let mut run = at.spawn(lines_script(LENGTH));
    assert_lines(&mut run, LENGTH);
    let ended = at.job.end(run);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(proxy.happened(), 30, "{}", ended.stderr);
    // The first losses are reported one by one, and all are counted.
    let (mut lines, mut losses) = (0, 0);
    for line in
        ended.stderr.lines().filter(|line| line.contains("connection to the container was lost"))
    {
        let more = |before: &str, after: &str| -> usize {
            line.split_once(before)
                .and_then(|(_, rest)| rest.split_once(after))
                .map_or(0, |(more, _)| more.parse().unwrap())
        };
        let at_the_end = more("was lost ", " times more");
        losses +=
            more(", and ", " times before that") + if at_the_end == 0 { 1 } else { at_the_end };
        lines += 1;
    }
    assert!((10..=30).contains(&lines), "{lines} lines: {}", ended.stderr);
    assert_eq!(losses, 30, "{}", ended.stderr);
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_while_output_flows() {
    const LENGTH: usize = 100_000_000;
    let proxy = Proxy::new();
    let at = Prepared::configured(&proxy, QUICK, "");
    proxy.plan([fault(ToClient, 20_000_000, Freeze)]);
    let mut run = at.spawn(lines_script(LENGTH));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the network vanishes", || proxy.is_frozen());
            eventually("the driver notices", || at.job.log().contains("connection lost"));
            proxy.thaw();
        });
        assert_lines(&mut run, LENGTH);
    });
    let ended = at.job.end(run);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("does not answer any more") && ended.stderr.contains("Reconnected"),
        "{}",
        ended.stderr
    );
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_for_a_moment_is_not_logged() {
    const LENGTH: usize = 20_000_000;
    let proxy = Proxy::new();
    let at = Prepared::behind(&proxy);
    proxy.plan([fault(ToClient, 5_000_000, Freeze)]);
    let mut run = at.spawn(lines_script(LENGTH));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the network vanishes", || proxy.is_frozen());
            // This is the fault itself: how long it lasts.
            std::thread::sleep(Duration::from_secs(2));
            proxy.thaw();
        });
        assert_lines(&mut run, LENGTH);
    });
    let ended = at.job.end(run);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_under_a_silent_script() {
    let proxy = Proxy::new();
    let at = Prepared::configured(&proxy, QUICK, "");
    let run = at.begin(WAITS);
    proxy.freeze();
    eventually("the driver notices by its keep-alives", || {
        at.job.log().contains("connection lost")
    });
    // It ends without a connection.
    at.release();
    proxy.thaw();
    let ended = at.job.end(run);
    assert_eq!(
        (ended.script_code.as_deref(), ended.stdout.as_slice()),
        (Some("3"), &b"done\n"[..]),
        "{ended:#?}"
    );
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_network_that_vanishes_in_the_handshake_and_in_the_delivery() {
    for (after, script) in [
        (400, String::new()),
        (5_000, String::new()),
        (700_000, "# a long script\n".repeat(100_000)),
    ] {
        let proxy = Proxy::new();
        let at = Prepared::configured(&proxy, QUICK, "");
        proxy.plan([fault(ToServer, after, Freeze)]);
        let script = format!("{script}echo run >>\"$TMPDIR/runs\"; wc -l <\"$TMPDIR/runs\"");
        let run = at.spawn(script);
        eventually("the network vanishes", || proxy.is_frozen());
        eventually("the driver notices", || {
            let log = at.job.log();
            log.contains("connection lost") || log.contains("took too long")
        });
        proxy.thaw();
        let ended = at.job.end(run);
        assert_eq!(
            (ended.code, String::from_utf8_lossy(&ended.stdout).trim()),
            (0, "1"),
            "after {after}: {ended:#?}\n{}",
            at.job.log()
        );
        at.end();
    }
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_task_that_dies_without_connections_ends_the_stage_at_once() {
    let proxy = Proxy::new();
    // The connection's own deadline is later than the test's.
    let at = Prepared::configured(&proxy, QUICK, "[Deadlines]\nReconnect = \"1h\"\n");
    let run = at.begin(WAITS);
    proxy.freeze();
    let (arn, _, _) = at.moto().tasks().remove(0);
    moto::ecs(
        &at.moto().endpoint,
        "StopTask",
        &json!({ "cluster": at.moto().cluster, "task": arn, "reason": "maintenance of the test" }),
    );
    let ended = at.job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("maintenance of the test"), "ECS's own words: {}", ended.stderr);
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_cancel_does_not_wait_for_a_network_that_vanished() {
    let proxy = Proxy::new();
    // Silence would be noticed only after an hour.
    let at = Prepared::configured(
        &proxy,
        "KeepAlive = \"15m\"\n",
        "[Deadlines]\nGracePeriod = \"1s\"\nReconnect = \"1h\"\n",
    );
    let run = at.begin(WAITS);
    proxy.freeze();
    Job::cancel(&run);
    let ended = at.job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn an_ssh_server_is_killed_and_restarted() {
    let at = Prepared::on(Cluster::moto());
    let run = at.begin(WAITS);
    at.moto().with_sshd(|sshd| {
        sshd.kill();
        eventually("the driver meets a closed door", || at.job.log().contains("nothing listens"));
        sshd.start_again(false);
    });
    eventually("it is back", || at.job.log().contains("reconnected"));
    at.release();
    let ended = at.job.end(run);
    assert_eq!(
        (ended.script_code.as_deref(), ended.stdout.as_slice()),
        (Some("3"), &b"done\n"[..]),
        "{ended:#?}"
    );
    let count = |what: &str| ended.stderr.matches(what).count();
    assert_eq!(
        (count("connection to the container was lost"), count("Reconnected")),
        (1, 1),
        "{}",
        ended.stderr
    );
    at.end();
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn another_host_key_is_refused_and_explained() {
    let at = Prepared::on(Cluster::moto());
    let run = at.begin(WAITS);
    at.moto().with_sshd(|sshd| {
        sshd.kill();
        sshd.start_again(true);
    });
    let ended = at.job.end(run);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    assert!(
        ended.stderr.contains("another SSH server answers") && ended.stderr.contains("SHA256:"),
        "{}",
        ended.stderr
    );
    // The driver does not connect to it again.
    let after = at.job.run("after_script", "echo never");
    assert_eq!((after.code, after.stdout.as_slice()), (SYSTEM_FAILURE, &b""[..]), "{after:#?}");
    at.end();
}

/// Needs nothing installed: the proxy is in front of the API.
#[test]
fn answers_of_the_api_that_are_cut_off_leak_no_task() {
    let cluster = Cluster::local();
    let Cluster::Local(local) = &cluster else { unreachable!("it was started above") };
    let proxy = Proxy::new();
    let server: SocketAddr = local.endpoint.trim_start_matches("http://").parse().unwrap();
    let address = proxy.stand_before(SocketAddr::from(([127, 0, 0, 1], 0)), server);
    let mut job = Job::on(&cluster);
    job.set("AWS_ENDPOINT_URL", &format!("http://{address}"));
    // RunTask's request does not arrive, then its answer is lost, then cut in the middle;
    // DescribeTasks and StopTask likewise.
    let cuts = [
        (ToServer, 100, Reset),
        (ToClient, 0, Reset),
        (ToClient, 200, Close),
        (ToClient, 300, Reset),
        (ToClient, 0, Close),
    ];
    proxy.plan(cuts.map(|(way, after, what)| fault(way, after, what)));
    job.prepare();
    assert!(proxy.happened() >= 3, "{} cuts", proxy.happened());
    proxy.clear();
    assert_eq!(job.run("build_script", "echo fine").stdout, b"fine\n");
    proxy.plan([fault(ToClient, 0, Reset), fault(ToClient, 100, Close)]);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
