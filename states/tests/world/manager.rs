//! A runner manager: calls a job's stages, each in a process of its own.

use std::{io, sync::Arc};

use bytes::Bytes;
use states::*;

use super::{
    cloud::{Cloud, Control},
    containers::{Shell, Wire},
    crash_point::CrashPoint,
    store::{Disk, FaultyStore},
};

pub type Process = ProcessWith<Control>;
pub type ProcessWith<C, T = Wire> = Engine<C, T, FaultyStore>;

/// The time at which the world begins: the same in every run of a test.
const BEGINNING: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// All that outlives processes: the cloud, the disk, the clock. Also the crash point of the
/// processes that it starts.
#[derive(Clone)]
pub struct Manager {
    pub cloud: Arc<Cloud>,
    pub crash: Arc<CrashPoint>,
    pub clock: Clock,
    pub disk: Arc<Disk>,
    pub job: JobId,
}

/// Collects the output that was handed on. May cancel the stage.
pub struct Io {
    pub output: Vec<u8>,
    /// Bytes of the last write.
    pub last_write: usize,
    /// Whether the output belongs to an earlier process's run, and is not collected.
    pub is_stale: bool,
    pub cancel_at: Option<tokio::time::Instant>,
    pub was_cancelled: bool,
    crash: Arc<CrashPoint>,
}

impl JobIo for Io {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        self.crash.step().await;
        // Like a pipe with a slow reader: not all at once.
        let taken = bytes.len().div_ceil(2);
        if !self.is_stale {
            self.output.extend_from_slice(&bytes[..taken]);
            self.last_write = taken;
        }
        self.crash.step().await;
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
            additions: None,
            size: states::TaskSize::default(),
            task_role: None,
            service_environment: Vec::new(),
        },
        definition_from_project: false,
        trace: None,
        pool: None,
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
            crash: Arc::default(),
            clock,
            disk: Arc::default(),
            job: JobId::new("job-1").unwrap(),
        }
    }

    pub fn process(&self) -> Process {
        self.process_with(self.control(), self.wire())
    }

    /// A process with these instead of the manager's own.
    pub fn process_with<C: TaskControl, T: Transport>(
        &self,
        control: C,
        transport: T,
    ) -> ProcessWith<C, T> {
        let store = FaultyStore {
            disk: Arc::clone(&self.disk),
            cloud: Arc::clone(&self.cloud),
            crash: Arc::clone(&self.crash),
        };
        Engine::new(control, transport, store, |_| "key".into()).with_clock(self.clock)
    }

    pub fn control(&self) -> Control {
        Control { cloud: Arc::clone(&self.cloud), crash: Arc::clone(&self.crash) }
    }

    pub fn wire(&self) -> Wire {
        Wire { cloud: Arc::clone(&self.cloud), crash: Arc::clone(&self.crash) }
    }

    /// Returns the job's snapshot, unless it is archived.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.disk.store.snapshot(&self.job)
    }

    pub fn io(&self) -> Io {
        Io {
            output: Vec::new(),
            last_write: 0,
            is_stale: false,
            cancel_at: None,
            was_cancelled: false,
            crash: Arc::clone(&self.crash),
        }
    }

    /// `None` if the process died. Its output is in `io` all the same.
    async fn unless_it_dies<T>(
        &self,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            () = self.crash.crash() => None,
            done = work => match done {
                // Work that completed beside the step of the crash does not count.
                _ if self.crash.has_crashed() => None,
                Ok(done) => Some(done),
                Err(error) => panic!("{error}"),
            },
        }
    }

    pub async fn prepare(&self, io: &mut Io) -> Option<Outcome> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease =
                engine.store().lease(&self.job, "prepare", std::time::Duration::ZERO).await?;
            let mut work = match engine.store().load(&self.job).await? {
                Some(snapshot) => engine.work(snapshot, lease),
                None => engine
                    .begin(Header { created: engine.clock().now(), ..header(&self.job) }, lease),
            };
            engine.open(&mut work, "prepare").await;
            engine.drive(&mut work, Goal::Reach, io).await
        })
        .await
    }

    pub async fn run(&self, stage: &str, script: &str, io: &mut Io) -> Option<Outcome> {
        self.run_as(stage, script, io, |_| {}).await
    }

    /// `run` in a service that dies when the stage has its verdict.
    pub async fn run_unsettled(&self, stage: &str, script: &str, io: &mut Io) -> Option<Outcome> {
        self.run_as(stage, script, io, Work::settle_later).await
    }

    async fn run_as(
        &self,
        stage: &str,
        script: &str,
        io: &mut Io,
        begin: impl FnOnce(&mut Work<Shell, InMemoryLease>),
    ) -> Option<Outcome> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease = engine.store().lease(&self.job, stage, std::time::Duration::ZERO).await?;
            let snapshot = engine.store().load(&self.job).await?.expect("prepare was before");
            let mut work = engine.work(snapshot, lease);
            begin(&mut work);
            engine.open(&mut work, stage).await;
            let script = Script {
                text: Bytes::copy_from_slice(script.as_bytes()),
                digest: script.to_owned(),
            };
            engine.request_run(&mut work, stage, script, RunContainer::Coordinator)?;
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

    /// Runs `prepare` of another job once this job's tasks have ended. Returns this job's snapshot,
    /// if it is still there.
    pub async fn left_by_the_next_job(&self) -> Option<Snapshot> {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let next = self.of_job("the-next-job");
        assert_eq!(next.prepare(&mut next.io()).await, Some(Outcome::Reachable(None)));
        self.snapshot()
    }

    async fn end(&self, goal: Goal, io: &mut Io) -> Option<Option<Outcome>> {
        self.unless_it_dies(async {
            let engine = self.process();
            let lease =
                engine.store().lease(&self.job, "cleanup", std::time::Duration::ZERO).await?;
            let Some(snapshot) = engine.store().load(&self.job).await? else { return Ok(None) };
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, "cleanup").await;
            engine.request_stop(&mut work, StopReason::Cleanup);
            engine.drive(&mut work, goal, io).await.map(Some)
        })
        .await
    }
}
