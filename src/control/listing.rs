//! Lists tasks: a job's, by its `startedBy`; all those of drivers in a cluster, by their tags.

use std::time::SystemTime;

use aws_sdk_ecs::types::{DesiredStatus, Task, TaskField};
use states::{ControlError, StartedBy, TaskArn};

use super::{EcsControl, errors};

/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;

/// A task of a driver whose desired status is RUNNING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The task.
    pub task: TaskArn,
    /// When ECS created it.
    pub created: Option<SystemTime>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

impl Launched {
    /// Returns the value of a tag; empty if it has none.
    #[must_use]
    pub fn tag(&self, key: &str) -> &str {
        self.tags.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }
}

impl EcsControl {
    /// Lists the tasks with this `startedBy` whose desired status is RUNNING.
    ///
    /// ECS accepts no other filter beside `startedBy`, not even the status; without one it lists
    /// the tasks whose desired status is RUNNING (Amazon ECS API reference, ListTasks). A stopping
    /// task ends by itself.
    pub(super) async fn started_by(
        &self,
        cluster: &str,
        started_by: &StartedBy,
    ) -> Result<Vec<TaskArn>, ControlError> {
        const OPERATION: &str = "ListTasks";
        let mut found = Vec::new();
        let call =
            self.clients().await.ecs.list_tasks().cluster(cluster).started_by(started_by.as_str());
        let mut pages = call.into_paginator().items().send();
        while let Some(arn) = pages.next().await {
            let arn = arn
                .map_err(|e| errors::refused(OPERATION, &e, &errors::Subject::cluster(cluster)))?;
            found.push(TaskArn::new(arn).map_err(|e| errors::nonsense(OPERATION, &e.to_string()))?);
        }
        Ok(found)
    }

    /// Lists the cluster's tasks whose desired status is not STOPPED and whose `startedBy` is a
    /// driver's.
    ///
    /// # Errors
    /// When ECS does not answer.
    pub async fn launched(&self, cluster: &str) -> Result<Vec<Launched>, ControlError> {
        let subject = errors::Subject::cluster(cluster);
        let clients = self.clients().await;
        let ecs = &clients.ecs;
        let mut arns = Vec::new();
        let mut pages = ecs
            .list_tasks()
            .cluster(cluster)
            .desired_status(DesiredStatus::Running)
            .into_paginator()
            .items()
            .send();
        while let Some(arn) = pages.next().await {
            arns.push(arn.map_err(|e| errors::refused("ListTasks", &e, &subject))?);
        }
        let mut launched = Vec::new();
        for arns in arns.chunks(AT_ONCE) {
            let call = ecs
                .describe_tasks()
                .cluster(cluster)
                .set_tasks(Some(arns.to_vec()))
                .include(TaskField::Tags);
            let answer =
                call.send().await.map_err(|e| errors::refused("DescribeTasks", &e, &subject))?;
            launched.extend(answer.tasks().iter().filter(|task| is_ours(task)).filter_map(read));
        }
        Ok(launched)
    }
}

/// Checks both marks: any user can set `startedBy`, and tags can be copied.
fn is_ours(task: &Task) -> bool {
    let tagged = task.tags().iter().any(|tag| tag.key() == Some(super::JOB_TAG));
    tagged
        && task.started_by().is_some_and(|by| by.starts_with(super::STARTED_BY))
        && task.desired_status() != Some("STOPPED")
}

fn read(task: &Task) -> Option<Launched> {
    let tags = task.tags().iter().map(|tag| {
        (tag.key().unwrap_or_default().to_owned(), tag.value().unwrap_or_default().to_owned())
    });
    Some(Launched {
        task: TaskArn::new(task.task_arn()?).ok()?,
        created: task.created_at().and_then(|at| SystemTime::try_from(*at).ok()),
        tags: tags.collect(),
    })
}
