//! A runner manager: calls a job's stages, each in a process of its own.

use std::{io, sync::Arc};

use bytes::Bytes;
use states::*;

use super::{
    cloud::{Cloud, Control},
    containers::Wire,
    fuse::Fuse,
    shelf::{Shelf, Store},
};

pub type Process = Engine<Control, Wire, Store>;

/// When the world begins: the same in every run of a test.
const BEGINNING: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// What outlives processes: the cloud, the disk, time; and the fuse of the processes that it
/// starts.
#[derive(Clone)]
pub struct Manager {
    pub cloud: Arc<Cloud>,
    pub fuse: Arc<Fuse>,
    pub clock: Clock,
    pub shelf: Arc<Shelf>,
    pub job: JobId,
}

/// Collects the output that was handed on; may want the stage to end.
pub struct Io {
    pub output: Vec<u8>,
    /// Bytes of the last write.
    pub last_write: usize,
    /// Whether what comes is of the run that an earlier process had left behind: nobody misses it.
    pub is_leftover: bool,
    pub cancel_at: Option<tokio::time::Instant>,
    pub was_cancelled: bool,
    fuse: Arc<Fuse>,
}

impl JobIo for Io {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        self.fuse.step().await;
        // As a pipe whose reader is slow: not all of it at once.
        let taken = bytes.len().div_ceil(2);
        if !self.is_leftover {
            self.output.extend_from_slice(&bytes[..taken]);
            self.last_write = taken;
        }
        self.fuse.step().await;
        Ok(taken)
    }

    fn note(&mut self, _: Note<'_>) {}

    async fn cancelled(&mut self) {
        match self.cancel_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.cancel_at = None;
        self.was_cancelled = true;
    }
}

pub fn header(job: &JobId) -> Header {
    Header {
        id: job.clone(),
        about: About::default(),
        created: BEGINNING,
        token: ClientToken::new(format!("t-{job}")).unwrap(),
        spec: LaunchSpec {
            cluster: "c".into(),
            task_definition: "d".into(),
            platform_version: None,
            subnets: vec!["s".into()],
            security_groups: vec![],
            assign_public_ip: false,
            capacity: Capacity::ClusterDefault,
            container: "ci-coordinator".into(),
            environment: vec![],
            started_by: StartedBy::new(job.as_str()).unwrap(),
            tags: vec![],
            enable_execute_command: false,
            propagate_tags: false,
            enable_ecs_managed_tags: false,
        },
        definition_from_project: false,
        trace: None,
        host_proof: None,
        login: None,
        connect_to: ConnectTo::PrivateAddress,
        transport: None,
        limits: Limits::default(),
    }
}

impl Manager {
    pub fn new(cloud: Arc<Cloud>) -> Self {
        let clock = Clock::showing(BEGINNING);
        Self {
            cloud,
            fuse: Arc::default(),
            clock,
            shelf: Arc::default(),
            job: JobId::new("job-1").unwrap(),
        }
    }

    pub fn process(&self) -> Process {
        let (cloud, fuse) = (Arc::clone(&self.cloud), Arc::clone(&self.fuse));
        let store = Store {
            shelf: Arc::clone(&self.shelf),
            cloud: Arc::clone(&cloud),
            fuse: Arc::clone(&fuse),
        };
        let wire = Wire { cloud: Arc::clone(&cloud), fuse: Arc::clone(&fuse) };
        Engine::new(Control { cloud, fuse }, wire, store, |_| "key".into()).with_clock(self.clock)
    }

    pub fn io(&self) -> Io {
        Io {
            output: Vec::new(),
            last_write: 0,
            is_leftover: false,
            cancel_at: None,
            was_cancelled: false,
            fuse: Arc::clone(&self.fuse),
        }
    }

    /// `None` when the process died; what it had handed on is in `io` all the same.
    async fn unless_it_dies<T>(
        &self,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            () = self.fuse.blown() => None,
            done = work => match done {
                // The store reports the death of its process as an error, which is not always the engine's.
                _ if self.fuse.is_blown() => None,
                Ok(done) => Some(done),
                Err(error) => panic!("{error}"),
            },
        }
    }

    pub async fn prepare(&self, io: &mut Io) -> Option<Outcome> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease = engine.store().lease(&self.job, "prepare", std::time::Duration::ZERO)?;
            let mut work = match engine.store().load(&self.job)? {
                Some(snapshot) => engine.work(snapshot, lease),
                None => engine
                    .begin(Header { created: engine.clock().now(), ..header(&self.job) }, lease),
            };
            engine.open(&mut work, "prepare");
            engine.drive(&mut work, Goal::Reach, io).await
        })
        .await
    }

    pub async fn run(&self, stage: &str, script: &str, io: &mut Io) -> Option<Outcome> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease = engine.store().lease(&self.job, stage, std::time::Duration::ZERO)?;
            let snapshot = engine.store().load(&self.job)?.expect("prepare was before");
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, stage);
            let script = Script {
                text: Bytes::copy_from_slice(script.as_bytes()),
                digest: script.to_owned(),
            };
            engine.request_run(&mut work, stage, script)?;
            engine.drive(&mut work, Goal::Run, io).await
        })
        .await
    }

    /// `cleanup` as gitlab-runner calls it. `Some(None)`: there was nothing to clean up.
    pub async fn cleanup(&self, io: &mut Io) -> Option<Option<Outcome>> {
        self.end(Goal::Stop, io).await
    }

    /// `cleanup --wait`.
    pub async fn cleanup_and_wait(&self, io: &mut Io) -> Option<Option<Outcome>> {
        self.end(Goal::End, io).await
    }

    /// Another job of this manager, on the same disk and in the same cloud.
    pub fn of_job(&self, job: &str) -> Self {
        Self { job: JobId::new(job).unwrap(), ..self.clone() }
    }

    /// Once the job's tasks have ended, `prepare` of another job: what it leaves of this one's
    /// snapshot.
    pub async fn left_by_the_next_job(&self) -> Option<Snapshot> {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let next = self.of_job("the-next-job");
        assert_eq!(next.prepare(&mut next.io()).await, Some(Outcome::Reachable(None)));
        self.shelf.snapshots.lock().unwrap().get(&self.job).cloned()
    }

    async fn end(&self, goal: Goal, io: &mut Io) -> Option<Option<Outcome>> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease = engine.store().lease(&self.job, "cleanup", std::time::Duration::ZERO)?;
            let Some(snapshot) = engine.store().load(&self.job)? else { return Ok(None) };
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, "cleanup");
            engine.request_stop(&mut work, StopReason::Cleanup);
            engine.drive(&mut work, goal, io).await.map(Some)
        })
        .await
    }
}
