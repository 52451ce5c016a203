//! The warm tasks that there are, and what a pool's tasks are.

use std::time::Duration;

use states::{
    AnyJob, DirectoryStore, Fit, Header, JobId, StateName, StoreError, TaskArn, Timestamp,
};

use super::{LaunchError, launching::header};
use crate::config::{Config, Warm};

/// The purpose under which a claim is finished.
const PURPOSE: &str = "warm";

/// A warm task that no job has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmTask {
    /// Its id, which names its files.
    pub id: JobId,
    /// The name of the pool that launched it.
    pub pool: String,
    /// Its state: ready in `Reachable`, on its way before that, retired in `Stopping`.
    pub state: StateName,
    /// When its launch began.
    pub created: Timestamp,
    /// Since when it is ready for a job.
    pub ready: Option<Timestamp>,
    /// How long its pool keeps it, from [`WarmTask::created`] on.
    pub max_age: Duration,
    /// Its cluster.
    pub cluster: String,
    /// The ECS task, once there is one.
    pub task: Option<TaskArn>,
    /// What it is for a job. A task of today's configuration has [`fit`] of its pool.
    pub fit: Fit,
}

/// Returns the warm tasks, in the order of their ids. Takes no lease, so another process may be
/// working on some of them, or claim one at any moment. A snapshot that cannot be read is left out:
/// `reap` reports it.
///
/// # Errors
/// When the directory cannot be read.
pub fn look(store: &DirectoryStore) -> Result<Vec<WarmTask>, StoreError> {
    let read = |id: JobId| match store.read(&id) {
        Ok(snapshot) => {
            let job = snapshot?.job;
            let header = job.header();
            let origin = header.warm()?;
            Some(WarmTask {
                pool: origin.pool.clone(),
                state: job.name(),
                created: header.created,
                ready: if let AnyJob::Reachable(job) = &job { Some(job.state.since) } else { None },
                max_age: origin.max_age,
                cluster: header.spec.cluster.clone(),
                task: job.task().cloned(),
                fit: Fit::of(header),
                id,
            })
        }
        // A job is claiming it.
        Err(StoreError::Foreign { .. }) => None,
        Err(e) => {
            tracing::debug!("{e}");
            None
        }
    };
    Ok(store.warm_ids()?.into_iter().filter_map(read).collect())
}

/// Finishes claims in the middle of which a process was killed. Their jobs are then abandoned like
/// others without a process.
///
/// # Errors
/// When the directory cannot be read.
pub fn finish_claims(store: &DirectoryStore) -> Result<(), StoreError> {
    for job in store.unfinished_claims()? {
        // A job's lease finishes its claim. A process that has it is about to do so.
        if let Err(e) = store.try_lease(&job, PURPOSE) {
            tracing::debug!("{e}");
        }
    }
    Ok(())
}

/// Returns what a task of this pool is for a job, by today's configuration.
///
/// # Errors
/// When the configuration does not grant what the pool asks for.
pub fn fit(config: &Config, pool: &Warm) -> Result<Fit, LaunchError> {
    let header = header(config, pool, JobId::warm(0), Timestamp::from_millis(0))?;
    Ok(Fit::of(&header))
}

/// Returns the name of the pool whose tasks fit the job of this header.
#[must_use]
pub fn matching_pool(config: &Config, header: &Header) -> Option<String> {
    if config.warm.is_empty() {
        return None;
    }
    let wanted = Fit::of(header);
    let matches = |pool: &&Warm| fit(config, pool).is_ok_and(|fit| fit == wanted);
    config.warm.iter().find(matches).map(|pool| config.pool_name(pool))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use states::About;

    use super::*;
    use crate::{
        grant::Requests,
        runner::{Identity, SentEnvironment, StageEnvironment, WishedContainer, Wishes},
        stages::{
            Flags,
            launch::{self, Plan},
        },
    };

    const POOLS: &str = r#"
        [Images]
        Allowed = ["node:*", "registry.example.com/*"]
        Mirror = "mirror.example.com/hub"
        [Sizes]
        MaxCpu = 4096
        MaxMemory = 16384
        [[Warm]]
        Count = 1
        [[Warm]]
        Name = "node"
        Image = "node:22"
        CPU = 1024
        Memory = 2048
        Count = 1
        [[Warm]]
        Name = "other"
        TaskDefinition = "other:7"
        PlatformVersion = "1.4.0"
        Count = 1
    "#;

    fn config(more: &str) -> Config {
        let text = format!(
            "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 'ci-job'\n[TaskMetadata]\nDirectory = '/m'\n{more}"
        );
        Config::parse(&text, Path::new("fargate.toml")).unwrap().0
    }

    /// The header of a job with these variables and this image.
    fn job(config: &Config, image: Option<&str>, variables: &[(&str, &str)]) -> Header {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        let sent = serde_json::json!({ "variables": variables, "response": null });
        let sent: SentEnvironment = serde_json::from_value(sent).unwrap();
        let environment = StageEnvironment::from(sent);
        let variable = |name: &str| environment.job_variable(name);
        let image =
            image.map(|name| WishedContainer { name: name.to_owned(), ..Default::default() });
        let wishes = Wishes { image, ..Wishes::default() };
        let requests = Requests::from_variables(variable);
        let plan = Plan {
            chosen: launch::choose(config, &Flags::default(), &environment).unwrap(),
            granted: launch::grant_by(config, Some(&wishes), &requests).unwrap(),
        };
        let about = About { job_id: "9".to_owned(), ..About::default() };
        let identity = Identity { id: JobId::new("tok-9").unwrap(), about, trace_id: None };
        launch::header(config, &identity, plan, Timestamp::from_millis(9))
    }

    #[test]
    fn a_pools_tasks_are_what_jobs_that_ask_for_the_same_launch() {
        let config = config(POOLS);
        let sized = [("FARGATE_CPU", "1024"), ("FARGATE_MEMORY", "2048")];
        let other = [("FARGATE_TASK_DEFINITION", "other:7"), ("FARGATE_PLATFORM_VERSION", "1.4.0")];
        for (image, variables, pool) in [
            (None, &[][..], Some("ci-job")),
            (None, &[("FARGATE_TASK_DEFINITION", "ci-job")], Some("ci-job")),
            (Some("node:22"), &sized, Some("node")),
            (None, &other, Some("other")),
            (Some("node:22"), &[], None),
            (Some("node:20"), &sized, None),
            (Some("registry.example.com/node:22"), &sized, None),
            (None, &sized, None),
            (None, &other[..1], None),
        ] {
            let header = job(&config, image, variables);
            let matching = matching_pool(&config, &header);
            assert_eq!(matching.as_deref(), pool, "{image:?} {variables:?}");
        }
        // A change of the file that concerns launches makes other tasks of them.
        let changed = self::config(&POOLS.replace("mirror.example.com", "other.example.com"));
        let header = job(&config, Some("node:22"), &sized);
        assert_eq!(matching_pool(&changed, &header), None);
    }

    #[test]
    fn a_pool_that_is_not_granted_is_an_error() {
        let mut config = config(POOLS);
        config.warm[1].image = Some("mysql:9".to_owned());
        let error = fit(&config, &config.warm[1]).unwrap_err().to_string();
        assert!(error.contains("does not allow the image \"mysql:9\""), "{error}");
    }
}
