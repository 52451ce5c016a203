//! Asks ECS whether the tasks of jobs have ended: about many in one call.

use std::collections::{BTreeMap, HashMap};

use states::{ControlError, Described, JobId, Seen, Snapshot, TaskArn, TaskControl};

use super::retry;
use crate::host::JobEngine;

/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const TASKS_PER_CALL: usize = 100;

/// A job that ends if its tasks have ended. Its lock is not held meanwhile: ECS may take minutes to
/// answer, and a stage that begins must not wait for that.
pub(super) struct Query {
    pub(super) job: JobId,
    pub(super) snapshot: Box<Snapshot>,
    pub(super) tasks: Vec<TaskArn>,
}

/// ECS's description of one task, or why there is none.
pub(super) type Answer = Result<Described, ControlError>;

/// Asks ECS about the tasks of all queries.
pub(super) async fn answers(engine: &JobEngine, queries: &[Query]) -> HashMap<TaskArn, Answer> {
    let mut by_cluster: BTreeMap<&str, Vec<TaskArn>> = BTreeMap::new();
    for query in queries {
        by_cluster
            .entry(&query.snapshot.job.header().spec.cluster)
            .or_default()
            .extend(query.tasks.iter().cloned());
    }
    let mut answers = HashMap::new();
    for (cluster, tasks) in by_cluster {
        for chunk in tasks.chunks(TASKS_PER_CALL) {
            match retry(|| engine.control().describe(cluster, chunk)).await {
                Ok(described) => answers
                    .extend(described.into_iter().map(|answer| (answer.task.clone(), Ok(answer)))),
                Err(error) if error.kind.is_transient() || chunk.len() == 1 => {
                    answers.extend(chunk.iter().map(|task| (task.clone(), Err(error.clone()))));
                }
                // ECS may have refused one of them only.
                Err(_) => {
                    for task in chunk {
                        let answer = retry(|| {
                            engine.control().describe(cluster, std::slice::from_ref(task))
                        })
                        .await;
                        let answer = answer.map(|described| {
                            described.into_iter().find(|answer| answer.task == *task)
                        });
                        if let Some(answer) = answer.transpose() {
                            answers.insert(task.clone(), answer);
                        }
                    }
                }
            }
        }
    }
    answers
}

/// The status of a job's tasks.
pub(super) enum TasksStatus {
    /// All have ended. `why` says so for people.
    Ended { why: &'static str, answers: Vec<Described> },
    /// One has not ended, and has this status.
    Alive(String),
    /// It is unknown, for this reason.
    Unknown(String),
}

/// Returns the status of a job's tasks by the answers of ECS.
pub(super) fn tasks_status(query: &Query, answers: &HashMap<TaskArn, Answer>) -> TasksStatus {
    let (mut why, mut of_job) = ("its task is over", Vec::new());
    for task in &query.tasks {
        match answers.get(task) {
            Some(Ok(answer)) => {
                match &answer.seen {
                    Seen::Task(report) if report.status.has_ended() => {}
                    Seen::Task(report) => return TasksStatus::Alive(report.status.to_string()),
                    Seen::Missing => why = "ECS does not know its task any more",
                }
                of_job.push(answer.clone());
            }
            Some(Err(e)) => return TasksStatus::Unknown(diagnosis::explain_control(e)),
            None => return TasksStatus::Unknown(format!("ECS did not say how task {task} is")),
        }
    }
    TasksStatus::Ended { why, answers: of_job }
}
