//! Describes the tasks of many jobs in shared calls.
//!
//! Jobs queue the task to describe and when it is due. The job that is due first makes the call for
//! all that are due soon after, up to 100 tasks (the limit of DescribeTasks). A manager with a
//! thousand jobs makes ten calls a tick; one with a single job waits for no other. [`Piggyback`]
//! fills the rest of a call.
//!
//! Many jobs may be due at once, each for a reason of its own: a network failure breaks all their
//! connections. So calls keep a distance, in which requests gather.

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
/// The least time between the beginnings of two calls for a cluster.
const DISTANCE: Duration = Duration::from_millis(250);

type Answer = Result<Described, ControlError>;

#[derive(Debug)]
struct Waiting {
    task: TaskArn,
    due: Timestamp,
    answer: oneshot::Sender<Answer>,
}

/// The tasks to be described, by cluster.
#[derive(Debug)]
pub(super) struct Describer {
    queues: Mutex<HashMap<String, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// When the next call may begin; `None`: there was no call yet.
    next_call: Option<Timestamp>,
}

/// What a job does whose task is due.
enum Turn {
    /// It makes the call, for all of these.
    Call(Vec<Waiting>),
    /// It waits: another call has just begun.
    Wait(Timestamp),
    /// Another job's call has taken its request along.
    Taken,
}

impl Describer {
    pub(super) fn new() -> Self {
        Self { queues: Mutex::new(HashMap::new()) }
    }

    /// Describes the task when it is `due`, or a little earlier in another job's call. Dropping the
    /// future withdraws the request.
    pub(super) async fn describe<C: TaskControl, S: SnapshotStore>(
        &self,
        (control, clock): (&C, &Clock),
        (piggyback, store): (&Piggyback, &S),
        cluster: &str,
        task: &TaskArn,
        due: Timestamp,
    ) -> Answer {
        let (answer, mut answered) = oneshot::channel();
        self.with(cluster, |queue| {
            queue.waiting.push(Waiting { task: task.clone(), due, answer });
        });
        let mut wait_until = due;
        let batch = loop {
            tokio::select! {
                biased;
                answer = &mut answered => return answer.unwrap_or_else(|_| Err(withdrawn())),
                () = clock.until(wait_until) => {}
            }
            match self.turn(cluster, task, clock.now()) {
                Turn::Call(batch) => break batch,
                Turn::Wait(until) => wait_until = until,
                Turn::Taken => return answered.await.unwrap_or_else(|_| Err(withdrawn())),
            }
        };
        let places = AT_ONCE.saturating_sub(batch.len());
        let along = piggyback.take(store, cluster, places, clock).await;
        ask(control, cluster, batch, (piggyback, along)).await;
        answered.await.unwrap_or_else(|_| Err(withdrawn()))
    }

    /// Takes `task` and all others that are due soon, the most urgent first, if a call may begin.
    fn turn(&self, cluster: &str, task: &TaskArn, now: Timestamp) -> Turn {
        self.with(cluster, |Queue { waiting, next_call }| {
            waiting.retain(|w| !w.answer.is_closed());
            if waiting.iter().all(|w| w.task != *task) {
                return Turn::Taken;
            }
            if let Some(next_call) = *next_call
                && now < next_call
            {
                return Turn::Wait(next_call);
            }
            *next_call = Some(now + DISTANCE);
            waiting.sort_by_key(|w| (w.task != *task, w.due));
            let soon = waiting
                .iter()
                .take(AT_ONCE)
                .take_while(|w| w.task == *task || w.due <= now + TAKE_ALONG)
                .count();
            Turn::Call(waiting.drain(..soon).collect())
        })
    }

    fn with<R>(&self, cluster: &str, act: impl FnOnce(&mut Queue) -> R) -> R {
        // The queue is consistent after every step, so a panic elsewhere does no harm.
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        act(queues.entry(cluster.to_owned()).or_default())
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

/// The job that made the shared call was dropped during the call.
fn withdrawn() -> ControlError {
    ControlError {
        operation: "DescribeTasks".to_owned(),
        kind: ControlErrorKind::Unavailable,
        code: None,
        message: "the shared call was abandoned".to_owned(),
        cause: ControlCause::General,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{task::JoinSet, time::Instant};

    use super::*;
    use crate::{
        ClientToken, InMemoryStore, InterfaceId, LaunchSpec, Seen, StartedBy, StopAnswer,
        StopReason, TaskReport,
    };

    /// Knows no task, and records when it is asked about how many.
    #[derive(Default)]
    struct Asked(Mutex<Vec<(Instant, usize)>>);

    impl TaskControl for Asked {
        async fn launch(
            &self,
            _: &ClientToken,
            _: &LaunchSpec,
        ) -> Result<TaskReport, ControlError> {
            unreachable!("nothing is launched")
        }

        async fn describe(
            &self,
            _: &str,
            tasks: &[TaskArn],
        ) -> Result<Vec<Described>, ControlError> {
            self.0.lock().unwrap().push((Instant::now(), tasks.len()));
            tokio::time::sleep(Duration::from_millis(30)).await;
            let missing = |task: &TaskArn| Described { task: task.clone(), seen: Seen::Missing };
            Ok(tasks.iter().map(missing).collect())
        }

        async fn find(&self, _: &str, _: &StartedBy) -> Result<Vec<TaskArn>, ControlError> {
            unreachable!("nothing is listed")
        }

        async fn stop(
            &self,
            _: &str,
            _: &TaskArn,
            _: &StopReason,
        ) -> Result<StopAnswer, ControlError> {
            unreachable!("nothing is stopped")
        }

        async fn public_address(&self, _: &InterfaceId) -> Result<Option<String>, ControlError> {
            unreachable!("no address is asked for")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_are_due_at_once_share_calls_that_keep_a_distance() {
        const JOBS: usize = 200;
        let shared = Arc::new((
            Describer::new(),
            Asked::default(),
            Clock::start(),
            Piggyback::default(),
            InMemoryStore::default(),
        ));
        let mut jobs = JoinSet::new();
        let began = Instant::now();
        for number in 0..JOBS {
            let shared = Arc::clone(&shared);
            jobs.spawn(async move {
                // A network failure breaks the jobs' connections one after the other.
                tokio::time::sleep(Duration::from_millis(number as u64 * 5)).await;
                let (describer, asked, clock, piggyback, store) = &*shared;
                let task = TaskArn::new(format!("arn:aws:ecs:r:1:task/c/{number:032}")).unwrap();
                let (asking, along) = ((asked, clock), (piggyback, store));
                describer.describe(asking, along, "c", &task, clock.now()).await.unwrap()
            });
        }
        assert_eq!(jobs.join_all().await.len(), JOBS);
        let calls = shared.1.0.lock().unwrap().clone();
        assert_eq!(calls[0], (began, 1), "the first one waits for no other");
        assert!(calls.windows(2).all(|two| two[1].0 - two[0].0 >= DISTANCE), "{calls:?}");
        assert_eq!(calls.iter().map(|(_, tasks)| tasks).sum::<usize>(), JOBS);
        assert_eq!(calls.len(), 5, "{calls:?}");
    }
}
