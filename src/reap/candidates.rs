//! Describes the tasks of many jobs in one call, to learn whether they have ended.

use std::collections::{BTreeMap, HashMap};

use states::{ControlError, Described, JobId, Seen, Snapshot, TaskArn, TaskControl};

use super::with_retries;
use crate::stages::JobEngine;

/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;

/// A job that ends if its tasks have ended. Its lock is not held meanwhile: ECS may take minutes to
/// answer, and a new stage must not wait for that.
pub(super) struct Candidate {
    pub(super) job: JobId,
    pub(super) snapshot: Box<Snapshot>,
    pub(super) tasks: Vec<TaskArn>,
}

/// ECS's answer about one task, or its error.
pub(super) type Answer = Result<Described, ControlError>;

/// Describes the tasks of all these jobs.
pub(super) async fn answers(engine: &JobEngine, jobs: &[Candidate]) -> HashMap<TaskArn, Answer> {
    let mut by_cluster: BTreeMap<&str, Vec<TaskArn>> = BTreeMap::new();
    for candidate in jobs {
        by_cluster
            .entry(&candidate.snapshot.job.header().spec.cluster)
            .or_default()
            .extend(candidate.tasks.iter().cloned());
    }
    let mut answers = HashMap::new();
    for (cluster, tasks) in by_cluster {
        for chunk in tasks.chunks(AT_ONCE) {
            match with_retries(|| engine.control().describe(cluster, chunk)).await {
                Ok(described) => answers
                    .extend(described.into_iter().map(|answer| (answer.task.clone(), Ok(answer)))),
                Err(error) if error.kind.is_transient() || chunk.len() == 1 => {
                    answers.extend(chunk.iter().map(|task| (task.clone(), Err(error.clone()))));
                }
                // One of the tasks may be the cause.
                Err(_) => {
                    for task in chunk {
                        let answer = with_retries(|| {
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
    /// All have ended, for this reason.
    Over { why: &'static str, answers: Vec<Described> },
    /// One has not ended, and is in this status.
    Not(String),
    /// It could not be determined.
    Unknown(String),
}

pub(super) fn status(candidate: &Candidate, answers: &HashMap<TaskArn, Answer>) -> TasksStatus {
    let (mut why, mut of_job) = ("its task is over", Vec::new());
    for task in &candidate.tasks {
        match answers.get(task) {
            Some(Ok(answer)) => {
                match &answer.seen {
                    Seen::Task(report) if report.status.has_ended() => {}
                    Seen::Task(report) => return TasksStatus::Not(report.status.to_string()),
                    Seen::Missing => why = "ECS does not know its task any more",
                }
                of_job.push(answer.clone());
            }
            Some(Err(e)) => return TasksStatus::Unknown(diagnosis::explain_control(e)),
            None => return TasksStatus::Unknown(format!("ECS did not describe task {task}")),
        }
    }
    TasksStatus::Over { why, answers: of_job }
}
