//! What ECS says about the tasks that wait for jobs, and about the definitions of their pools.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use states::{ControlError, JobId, Seen, TaskArn, Timestamp};
use tokio::time::Instant;

use super::{super::WarmTask, Kept};
use crate::control::{EcsControl, NewestDefinition};

/// How often ECS is asked.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;

/// What ECS has answered.
#[derive(Default)]
pub(super) struct Inquiry {
    /// The task definitions of the tasks that wait, by task.
    definitions: HashMap<TaskArn, String>,
    /// The definitions of tasks that would be launched now, by pool, as far as they are known.
    newest: HashMap<String, NewestDefinition>,
    /// The pools whose newest definition the log has as unknown.
    unknown: HashSet<String>,
    asked: Option<Instant>,
}

impl Inquiry {
    /// Asks about the tasks that wait, and about the newest revisions, once a minute. Returns the
    /// tasks that have ended. First about the revisions: a task that waits was launched before, so it
    /// cannot be of a newer one.
    pub(super) async fn ask(
        &mut self,
        control: &EcsControl,
        pools: &[Kept],
        found: &[WarmTask],
    ) -> Vec<JobId> {
        let waiting: Vec<&WarmTask> = found.iter().filter(|task| task.ready.is_some()).collect();
        let is_due = self.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if !is_due || waiting.is_empty() {
            return Vec::new();
        }
        self.asked = Some(Instant::now());
        for kept in pools {
            let (pool, Some((spec, _))) = (&kept.pool.name, &kept.launch) else { continue };
            if waiting.iter().all(|task| task.pool != *pool) {
                continue;
            }
            self.newest.remove(pool);
            match control.newest_definition(spec).await {
                Ok(newest) => self.newest.extend(newest.map(|newest| (pool.clone(), newest))),
                Err(e) if self.unknown.insert(pool.clone()) => tracing::warn!(
                    pool,
                    "the newest revision of the task definition is not known, so tasks of older ones stay: {e}"
                ),
                Err(e) => tracing::debug!(pool, "{e}"),
            }
        }
        self.describe(control, &waiting).await.unwrap_or_else(|e| {
            tracing::debug!("warm tasks are described again later: {e}");
            Vec::new()
        })
    }

    /// Describes the tasks that wait, and notes their definitions. Returns those that have ended.
    async fn describe(
        &mut self,
        control: &EcsControl,
        waiting: &[&WarmTask],
    ) -> Result<Vec<JobId>, ControlError> {
        let mut clusters: HashMap<&str, Vec<TaskArn>> = HashMap::new();
        for found in waiting {
            clusters.entry(&found.cluster).or_default().extend(found.task.clone());
        }
        let (mut ended, mut definitions) = (Vec::new(), HashMap::new());
        for (cluster, tasks) in clusters {
            for some in tasks.chunks(AT_ONCE) {
                for (described, definition) in
                    control.describe_with_definitions(cluster, some).await?
                {
                    let has_ended = |ready: Timestamp| match &described.seen {
                        Seen::Task(report) => report.stop_desired || report.status.is_ending(),
                        // ECS may not show a new one yet.
                        Seen::Missing => Timestamp::now().since(ready) > ASK_EVERY,
                    };
                    let waits = waiting.iter().find(|of| of.task.as_ref() == Some(&described.task));
                    if let Some(task) = waits
                        && task.ready.is_some_and(has_ended)
                    {
                        ended.push(task.id.clone());
                    }
                    definitions.extend(definition.map(|definition| (described.task, definition)));
                }
            }
        }
        self.definitions = definitions;
        Ok(ended)
    }

    /// Whether the task has the definition that its pool launches now, as far as is known.
    pub(super) fn is_newest(&self, found: &WarmTask) -> bool {
        let definition = found.task.as_ref().and_then(|task| self.definitions.get(task));
        match (self.newest.get(&found.pool), definition) {
            (Some(newest), Some(definition)) => newest.is(definition),
            _ => true,
        }
    }
}
