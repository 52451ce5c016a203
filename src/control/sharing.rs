//! Callers of DescribeTasks share calls when many of them come at once.
//!
//! The rate of DescribeTasks is the whole account's. The engine asks for many jobs together, but
//! each new session of ECS Exec asks on its own, and so does whatever else a process does. So a
//! process has a rate of calls for each cluster. A single job does not reach it. Above the rate,
//! requests wait for the next call and gather in it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use states::{ControlError, Described, TaskArn};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;
/// Calls that may follow each other at once, and the time in which one more may be made: at most
/// five within a second.
const BURST: u32 = 2;
const INTERVAL: Duration = Duration::from_millis(334);

type Answer = Result<Vec<Described>, ControlError>;

/// The requests of a process, by cluster.
#[derive(Debug, Default)]
pub(super) struct Sharing(Mutex<HashMap<String, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    /// When all calls of a burst may be made again; `None`: there was no call yet.
    rested: Option<Instant>,
    last: u64,
}

#[derive(Debug)]
struct Request {
    number: u64,
    tasks: Vec<TaskArn>,
    answer: oneshot::Sender<Answer>,
}

/// What the owner of a request does now.
enum Turn {
    /// It makes a call for these.
    Call(Vec<Request>),
    /// It waits for the next call.
    Wait(Instant),
    /// Another one's call has its request.
    Taken,
}

impl Sharing {
    /// Describes these tasks by `call`, perhaps together with those of other requests. Dropping the
    /// future withdraws the request.
    pub(super) async fn describe<F: Future<Output = Answer>>(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
        call: impl Fn(Vec<TaskArn>) -> F,
    ) -> Answer {
        loop {
            let (number, mut answered) = self.enter(cluster, tasks);
            let mut until = Instant::now();
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut answered => break answer,
                    () = sleep_until(until) => {}
                }
                match self.turn(cluster, number) {
                    Turn::Call(batch) => share(batch, &call).await,
                    Turn::Wait(next) => until = next,
                    Turn::Taken => break answered.await,
                }
            };
            if let Ok(answer) = answer {
                return answer;
            }
            // The one that made the call was dropped. This request is made again.
        }
    }

    fn enter(&self, cluster: &str, tasks: &[TaskArn]) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let number = self.with(cluster, |queue| {
            queue.last += 1;
            let number = queue.last;
            queue.waiting.push(Request { number, tasks: tasks.to_vec(), answer });
            number
        });
        (number, answered)
    }

    /// Takes the request and as many others as fit into a call, if there may be one.
    fn turn(&self, cluster: &str, number: u64) -> Turn {
        self.with(cluster, |queue| {
            queue.waiting.retain(|request| !request.answer.is_closed());
            if queue.waiting.iter().all(|request| request.number != number) {
                return Turn::Taken;
            }
            let now = Instant::now();
            let rested = queue.rested.unwrap_or(now).max(now);
            let next = rested.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(now);
            if next > now {
                return Turn::Wait(next);
            }
            queue.rested = Some(rested + INTERVAL);
            queue.waiting.sort_by_key(|request| request.number != number);
            let mut size = 0;
            let fits = |request: &&Request| {
                size += request.tasks.len();
                request.number == number || size <= AT_ONCE
            };
            let count = queue.waiting.iter().take_while(fits).count();
            Turn::Call(queue.waiting.drain(..count).collect())
        })
    }

    fn with<R>(&self, cluster: &str, act: impl FnOnce(&mut Queue) -> R) -> R {
        // The queues are consistent after every step, so a panic elsewhere does no harm.
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(queues.entry(cluster.to_owned()).or_default())
    }
}

/// Makes the call, and answers each request about its own tasks.
async fn share<F: Future<Output = Answer>>(batch: Vec<Request>, call: &impl Fn(Vec<TaskArn>) -> F) {
    let mut tasks: Vec<TaskArn> = batch.iter().flat_map(|request| request.tasks.clone()).collect();
    tasks.sort();
    tasks.dedup();
    let answer = call(tasks).await;
    for request in batch {
        let of_request = |described: &&Described| request.tasks.contains(&described.task);
        let own = answer.as_ref().map(|all| all.iter().filter(of_request).cloned().collect());
        // A request that was withdrawn needs no answer.
        let _ = request.answer.send(own.map_err(Clone::clone));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use states::Seen;
    use tokio::{task::JoinSet, time::sleep};

    use super::*;

    /// When there were calls, and about how many tasks.
    type Calls = Arc<Mutex<Vec<(Instant, usize)>>>;

    async fn describe(sharing: &Sharing, calls: &Calls, number: usize) -> TaskArn {
        let task = TaskArn::new(format!("arn:aws:ecs:r:1:task/c/{number:032}")).unwrap();
        let call = async |tasks: Vec<TaskArn>| {
            calls.lock().unwrap().push((Instant::now(), tasks.len()));
            sleep(Duration::from_millis(30)).await;
            let missing = |task| Described { task, seen: Seen::Missing };
            Ok(tasks.into_iter().map(missing).collect())
        };
        let [answer] = &sharing.describe("c", std::slice::from_ref(&task), call).await.unwrap()[..]
        else {
            panic!("another number of answers")
        };
        assert_eq!(answer.task, task);
        task
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_share_calls_at_most_five_a_second() {
        const REQUESTS: usize = 1000;
        let (sharing, calls) = (Arc::new(Sharing::default()), Calls::default());
        let mut requests = JoinSet::new();
        for number in 0..REQUESTS {
            let (sharing, calls) = (Arc::clone(&sharing), Arc::clone(&calls));
            requests.spawn(async move {
                sleep(Duration::from_millis(number as u64 * 3)).await;
                describe(&sharing, &calls, number).await
            });
        }
        assert_eq!(requests.join_all().await.len(), REQUESTS);
        let calls = calls.lock().unwrap().clone();
        assert_eq!(calls.iter().map(|(_, tasks)| tasks).sum::<usize>(), REQUESTS);
        assert!(calls.iter().all(|(_, tasks)| *tasks <= AT_ONCE), "{calls:?}");
        for (from, _) in &calls {
            let second = *from..*from + Duration::from_secs(1);
            let within = calls.iter().filter(|(at, _)| second.contains(at)).count();
            assert!(within <= 5, "{within} calls within a second: {calls:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_job_waits_for_no_call() {
        let (sharing, calls, began) = (Sharing::default(), Calls::default(), Instant::now());
        for number in 0..6 {
            describe(&sharing, &calls, number).await;
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(6 * 530));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_a_call_that_was_dropped_are_made_again() {
        let (sharing, calls) = (Sharing::default(), Calls::default());
        // Two calls are free; the third one is for two requests.
        describe(&sharing, &calls, 1).await;
        describe(&sharing, &calls, 2).await;
        let dropped =
            tokio::time::timeout(Duration::from_millis(300), describe(&sharing, &calls, 3));
        let (dropped, kept) = tokio::join!(dropped, describe(&sharing, &calls, 4));
        assert!(dropped.is_err());
        assert!(kept.as_str().ends_with('4'));
        let sizes: Vec<usize> = calls.lock().unwrap().iter().map(|(_, tasks)| *tasks).collect();
        assert_eq!(sizes, [1, 1, 2, 1]);
    }
}
