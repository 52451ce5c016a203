//! Describes the tasks of many jobs in shared calls.
//!
//! Jobs queue the task to describe and when it is due. The job that is due first makes the call for
//! all that are due soon after, up to 100 tasks (the limit of DescribeTasks). A manager with a
//! thousand jobs makes ten calls a tick; one with a single job waits for no other. [`Piggyback`]
//! fills the rest of a call.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Clock, piggyback::Piggyback};
use crate::{
    ControlCause, ControlError, ControlErrorKind, Described, EndingJob, SnapshotStore, TaskArn,
    TaskControl, Timestamp,
};

/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;
/// How long before it is due a task is described in another job's call.
const TAKE_ALONG: Duration = Duration::from_millis(750);
/// When a request is made again whose call was abandoned: once the others of that call have queued.
const AGAIN: Duration = Duration::from_millis(50);

type Answer = Result<Described, ControlError>;

#[derive(Debug)]
struct Waiting {
    task: TaskArn,
    due: Timestamp,
    answer: oneshot::Sender<Answer>,
}

/// The queue of tasks to be described, by cluster.
#[derive(Debug)]
pub(super) struct Describer {
    waiting: Mutex<HashMap<String, Vec<Waiting>>>,
}

impl Describer {
    pub(super) fn new() -> Self {
        Self { waiting: Mutex::new(HashMap::new()) }
    }

    /// Describes the task when it is `due`, or a little earlier in another job's call. Dropping the
    /// future withdraws the request.
    pub(super) async fn describe<C: TaskControl, S: SnapshotStore>(
        &self,
        (control, clock): (&C, &Clock),
        (piggyback, store): (&Piggyback, &S),
        cluster: &str,
        task: &TaskArn,
        mut due: Timestamp,
    ) -> Answer {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.with(cluster, |waiting| waiting.push(Waiting { task: task.clone(), due, answer }));
            let early = tokio::select! {
                biased;
                answer = &mut answered => Some(answer),
                () = clock.until(due) => None,
            };
            let answer = match early {
                Some(answer) => answer,
                None => {
                    let batch = self.take_due(cluster, task, clock.now());
                    // Otherwise another job's call has just taken this request along.
                    if batch.iter().any(|w| w.task == *task) {
                        let places = AT_ONCE.saturating_sub(batch.len());
                        let along = piggyback.take(store, cluster, places, clock).await;
                        ask(control, cluster, batch, (piggyback, along)).await;
                    }
                    answered.await
                }
            };
            if let Ok(answer) = answer {
                return answer;
            }
            // The job that made the shared call was dropped during the call. All requests of that
            // call are made again, in one call.
            due = clock.now() + AGAIN;
        }
    }

    /// Takes `task` and all others that are due soon, the most urgent first.
    fn take_due(&self, cluster: &str, task: &TaskArn, now: Timestamp) -> Vec<Waiting> {
        self.with(cluster, |waiting| {
            waiting.retain(|w| !w.answer.is_closed());
            if waiting.iter().all(|w| w.task != *task) {
                return Vec::new();
            }
            waiting.sort_by_cached_key(|w| (w.task != *task, w.due));
            let soon = waiting
                .iter()
                .take(AT_ONCE)
                .take_while(|w| w.task == *task || w.due <= now + TAKE_ALONG)
                .count();
            waiting.drain(..soon).collect()
        })
    }

    fn with<R>(&self, cluster: &str, act: impl FnOnce(&mut Vec<Waiting>) -> R) -> R {
        // The queue is consistent after every step, so a panic elsewhere does no harm.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        act(waiting.entry(cluster.to_owned()).or_default())
    }
}

async fn ask<C: TaskControl>(
    control: &C,
    cluster: &str,
    batch: Vec<Waiting>,
    (piggyback, along): (&Piggyback, Vec<EndingJob>),
) {
    let mut tasks: Vec<TaskArn> = batch.iter().map(|w| w.task.clone()).collect();
    tasks.sort();
    tasks.dedup();
    let with_others: Vec<TaskArn> =
        tasks.iter().chain(along.iter().flat_map(|job| &job.tasks)).cloned().collect();
    let mut answers = control.describe(cluster, &with_others).await;
    if with_others.len() > tasks.len()
        && let Err(error) = &answers
        && concerns_its_tasks(error.kind)
    {
        tracing::debug!("{error}; asked again without the tasks of ending jobs");
        piggyback.disable();
        answers = control.describe(cluster, &tasks).await;
    }
    for waiting in batch {
        let answer = match &answers {
            Ok(described) => described
                .iter()
                .find(|d| d.task == waiting.task)
                .cloned()
                .ok_or_else(|| left_out(&waiting.task)),
            Err(error) => Err(error.clone()),
        };
        // A job that has withdrawn needs no answer.
        let _ = waiting.answer.send(answer);
    }
    if let Ok(described) = &answers {
        piggyback.record(along, described);
    }
}

/// Whether a call may have failed because of the tasks it asked about: with fewer tasks it may
/// succeed.
fn concerns_its_tasks(kind: ControlErrorKind) -> bool {
    use ControlErrorKind::{Credentials, NoCredentials, Throttled, Unavailable};
    !matches!(kind, Throttled | Unavailable | Credentials | NoCredentials)
}

fn left_out(task: &TaskArn) -> ControlError {
    ControlError {
        operation: "DescribeTasks".to_owned(),
        kind: ControlErrorKind::BadAnswer,
        code: None,
        message: format!("the answer has no entry for task {}", task.task_id()),
        cause: ControlCause::General,
    }
}
