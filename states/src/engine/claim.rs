//! Claims: a job takes over a warm task instead of launching one.

use std::time::Duration;

use super::{Engine, Work, drive::Promise};
use crate::{
    AnyJob, Claim, ConnectErrorKind, Fit, Header, JobId, Observation, Seen, Snapshot,
    SnapshotStore, StoreError, TaskArn, TaskControl, Timestamp, Transport, trace,
};

/// How long a claimed container may be silent until ECS is asked whether its task lives. Most answer
/// within half a second.
const ASKED_AFTER: Duration = Duration::from_secs(1);
/// The pause between two attempts to connect to it.
const TRIED_EVERY: Duration = Duration::from_millis(300);

/// The result of an attempt to claim a warm task.
pub enum Claiming<N, L> {
    /// The job has one, and its snapshot is saved.
    Claimed(Box<Work<N, L>>),
    /// None fits that is ready.
    None(L),
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Begins a job with a warm task that fits its header: of several, the one that has been ready
    /// longest. The job's own launch would be that of `header`. `lease` is the job's, which has no
    /// snapshot. Does not wait for other processes that work on warm tasks.
    ///
    /// # Errors
    /// When the store cannot be listed, or the claim cannot be saved. The task may be the job's
    /// then: its next lease shows that.
    pub async fn claim(
        &self,
        header: &Header,
        lease: S::Lease,
        purpose: &str,
    ) -> Result<Claiming<T::Session, S::Lease>, StoreError> {
        let fit = Fit::of(header);
        let mut ready = Vec::new();
        for warm in self.store.warm_tasks().await? {
            if let Some((_, claim)) = self.claimable(&warm, &fit).await {
                ready.push((claim.ready, warm));
            }
        }
        ready.sort();
        for (_, warm) in ready {
            let held = match self.store.lease(&warm, purpose, Duration::ZERO).await {
                Ok(held) => held,
                Err(e) => {
                    tracing::debug!("the warm task {warm} is passed over: {e}");
                    continue;
                }
            };
            // Another job may have taken it meanwhile.
            let Some((task, claim)) = self.claimable(&warm, &fit).await else { continue };
            let mut header = header.clone();
            header.adopt(task.job.header());
            let now = self.clock.now();
            let mut snapshot = Snapshot::new(header);
            snapshot.step(Observation::Claimed(Box::new(claim)), now);
            let opened =
                Observation::Opened { process: std::process::id(), purpose: purpose.to_owned() };
            snapshot.step(opened, now);
            self.store.claim((&lease, &held), &warm, &snapshot).await?;
            let mut work = self.work(snapshot, lease);
            work.saved = Some(Promise::of(&work.snapshot.job));
            work.saved_at = Some(now);
            work.saved_end = work.snapshot.journal.end();
            return Ok(Claiming::Claimed(Box::new(work)));
        }
        Ok(Claiming::None(lease))
    }

    /// Reads a warm task, if it is ready and fits.
    async fn claimable(&self, warm: &JobId, fit: &Fit) -> Option<(Snapshot, Claim)> {
        let snapshot = match self.store.load(warm).await {
            Ok(snapshot) => snapshot?,
            // A job that claims it at this moment, or a file that `fargate reap` reports.
            Err(e) => {
                tracing::debug!("the warm task {warm} is passed over: {e}");
                return None;
            }
        };
        let claim = Claim::of(&snapshot)?;
        (Fit::of(snapshot.job.header()) == *fit).then_some((snapshot, claim))
    }

    /// Checks that the container of a `Reachable` job answers `within` this time, and keeps the
    /// connection. Gives up earlier if ECS reports that the task ends, or if another container
    /// answers. The journal says why.
    pub async fn answers(&self, work: &mut Work<T::Session, S::Lease>, within: Duration) -> bool {
        let AnyJob::Reachable(job) = &work.snapshot.job else { return false };
        let destination = job.header.destination(job.state.address.as_deref());
        let (cluster, task) = (job.header.spec.cluster.clone(), job.state.task.clone());
        let target = self.target(&work.snapshot.job, destination);
        let began = self.clock.now();
        let mut problem = None;
        let connecting = async {
            loop {
                match trace::connect(&self.transport, &target).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) if error.kind == ConnectErrorKind::IdentityChanged => {
                        return Err(error);
                    }
                    // The network or an API may have failed for a moment.
                    Err(error) => problem = Some(error),
                }
                self.clock.until(self.clock.now() + TRIED_EVERY).await;
            }
        };
        let saw = tokio::select! {
            biased;
            connected = connecting => match connected {
                Ok(connection) => {
                    work.session = Some(connection);
                    return true;
                }
                Err(error) => Observation::Unreachable(error),
            },
            saw = self.end_of(&cluster, &task, began + ASKED_AFTER) => saw,
            () = self.clock.until(began + within) => {
                problem.map_or(Observation::TimePassed, Observation::Unreachable)
            }
        };
        work.snapshot.step(saw, self.clock.now());
        false
    }

    /// Completes when ECS shows that the task ends, or does not know it. Asks for the first time at
    /// `due`.
    async fn end_of(&self, cluster: &str, task: &TaskArn, mut due: Timestamp) -> Observation {
        loop {
            match self.describe(cluster, task, due).await.map(|described| described.seen) {
                Ok(Seen::Task(report)) if report.stop_desired || report.status.is_ending() => {
                    return Observation::Described(report.into());
                }
                Ok(Seen::Missing) => return Observation::Missing,
                Ok(Seen::Task(_)) => {}
                Err(error) => tracing::debug!("{error}"),
            }
            due = self.clock.now() + ASKED_AFTER;
        }
    }
}
