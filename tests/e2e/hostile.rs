//! A hostile SSH server in a job's container, which attacks the runner manager through the driver.

use std::{
    fs,
    net::Ipv4Addr,
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cluster::Cluster,
    eventually,
    hostile_server::{Attack, Identity, Seen, serve},
    processes::peak,
    runner::{Job, SYSTEM_FAILURE},
};

/// A job whose container has a hostile server.
struct Hostile {
    cluster: Cluster,
    job: Job,
    seen: Arc<Seen>,
    /// The server's runtime.
    _runtime: Runtime,
}

impl Hostile {
    /// Returns a prepared job.
    fn begin(attack: Attack) -> Self {
        let (hostile, prepare) = Self::beginning(attack, "offered");
        let prepared = hostile.job.end(prepare);
        assert_eq!(prepared.code, 0, "{prepared:#?}");
        hostile
    }

    /// Returns a job that is being prepared, with this `VerifyHost`.
    fn beginning(attack: Attack, verify_host: &str) -> (Self, Child) {
        let cluster = Cluster::local();
        // The cluster's own server does not listen in the container.
        cluster.as_local().set_faults(&json!({ "ssh": { "never_listens": true } }));
        let job = Job::with(&cluster, "[Deadlines]\nGracePeriod = \"1s\"\n");
        let text = fs::read_to_string(&job.config).unwrap();
        fs::write(&job.config, text.replace("\"required\"", &format!("{verify_host:?}"))).unwrap();
        let prepare = job.spawn(&["prepare"]);
        let address = || match states::Snapshot::parse(&job.snapshot()).ok()?.job {
            states::AnyJob::Pending(job) => job.state.address,
            states::AnyJob::Running(job) => job.state.address,
            _ => None,
        };
        eventually("the container has an address", || address().is_some());
        let address: Ipv4Addr = address().unwrap().parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (_, seen) = runtime.block_on(serve(
            (address, cluster.as_local().ssh_port),
            Identity::unproven(),
            attack,
        ));
        (Self { cluster, job, seen, _runtime: runtime }, prepare)
    }

    fn run(&self) -> Child {
        self.job.spawn(&["run", &self.job.script("echo").display().to_string(), "build_script"])
    }

    /// Cancels the stage, ends the job, and checks the size of its files on the manager.
    fn end(self, run: Child) {
        Job::cancel(&run);
        let ended = self.job.end(run);
        assert_eq!(ended.code, SYSTEM_FAILURE, "{}", ended.stderr);
        self.job.cleanup();
        self.cluster.assert_nothing_is_left(1);
        let archived = fs::metadata(&self.job.archived()[0]).unwrap().len();
        let (log, job_log) = (self.job.log().len(), ended.stderr.len());
        println!(
            "{} connections: snapshot {archived}, log {log}, job log {job_log} bytes",
            self.seen.connections()
        );
        assert!(
            archived < 256 * 1024 && log < 512 * 1024 && job_log < 64 * 1024,
            "{archived}, {log}, {job_log}"
        );
    }
}

#[test]
fn a_server_that_sends_a_byte_and_disconnects_fills_neither_log_nor_snapshot() {
    let hostile = Hostile::begin(Attack::ByteAndGoodbye(180_000));
    let before = hostile.seen.connections();
    let began = Instant::now();
    let run = hostile.run();
    eventually("it has connected often", || hostile.seen.connections() >= before + 12);
    // This holds for any speed of the server.
    let most = 12 + began.elapsed().as_secs() / 4;
    let made = (hostile.seen.connections() - before) as u64;
    assert!(made <= most, "{made} connections in {:?}", began.elapsed());
    hostile.end(run);
}

/// Returns the peak memory of a driver under this attack, three times over; its output is not read.
fn peak_under(attack: Attack) -> u64 {
    let hostile = Hostile::begin(attack);
    let before = hostile.seen.connections();
    let run = hostile.run();
    let connections = if matches!(attack, Attack::Channels(_)) { 3 } else { 1 };
    // A service has kept one, which the server may attack as well.
    let connections = connections - usize::from(hostile.job.is_hosted());
    eventually("the attack is under way", || hostile.seen.connections() >= before + connections);
    // The bytes take a moment to arrive.
    let mut last = (0, Instant::now());
    eventually("the memory does not grow any more", || {
        let now = peak(hostile.job.worker(&run));
        if now > last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(2)
    });
    let peak = peak(hostile.job.worker(&run));
    hostile.end(run);
    peak
}

#[test]
fn many_channels_and_tiny_messages_take_little_memory() {
    let idle = peak_under(Attack::Silence);
    for attack in [Attack::Channels(40_000), Attack::Crumbs(400_000)] {
        let peak = peak_under(attack);
        println!("{attack:?}: {peak} KiB at most, {idle} KiB without");
        assert!(peak < idle + 16 * 1024, "{attack:?}: {peak} KiB, {idle} KiB without");
    }
}

#[test]
fn prepare_refuses_an_unproven_host_key_if_a_proof_is_required() {
    let (hostile, prepare) = Hostile::beginning(Attack::None, "required");
    let prepared = hostile.job.end(prepare);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    for words in ["SHA256:", "VerifyHost", "nothing was sent", "deploy/ssh-entrypoint.sh"] {
        assert!(prepared.stderr.contains(words), "{words}: {}", prepared.stderr);
    }
    assert_eq!(hostile.seen.keys_offered.load(std::sync::atomic::Ordering::Relaxed), 0);
    hostile.job.cleanup();
    hostile.cluster.assert_nothing_is_left(1);
}

/// The local cluster's server proves its key like the entry point; later stages use the pinned key.
#[test]
fn a_job_whose_host_key_must_be_proven_runs_and_keeps_its_secret_to_itself() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let key = job.files(".key").remove(0);
    let secret = transports::ssh::proof::secret(&key).unwrap();
    assert!(
        job.snapshot().contains("host_proof: Some(Required)") && !job.snapshot().contains(&secret),
        "{}",
        job.snapshot()
    );
    assert!(!job.log().contains(&secret));
    let run = job.run("build_script", "echo \"$FARGATE_HOST_PROOF_KEY\"");
    assert_eq!(
        (run.code, run.stdout.len()),
        (0, secret.len() + 1),
        "the local cluster passes on the whole environment: {run:#?}"
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
