//! What the service does besides stages: watches stopping tasks to their end, ends what no job
//! needs any more, closes connections that are not used, keeps pools of warm tasks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use states::{Concluded, ControlError, EndingJob, SnapshotStore as _, TaskArn, TaskControl as _};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{host::Host, reap::Reaper, warm};

/// How often stopping tasks are described: Fargate takes 13 to 66 s to stop one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same after an error. Jobs that run need the account's rate of calls more.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;
/// How often connections are closed that are not used.
const CLOSE_EVERY: Duration = Duration::from_secs(30);
/// How often the service reaps. The first time is after as long: a manager that has just started
/// has other work.
const REAP_EVERY: Duration = Duration::from_secs(5 * 60);
/// When a job is abandoned, and a task without a job is an orphan: the default of `fargate reap`.
const OLDER_THAN: Duration = Duration::from_secs(60 * 60);
/// The purpose under which the service works on an ending job.
const PURPOSE: &str = "archive";

/// Does all of it until it is dropped.
pub(super) async fn keep_up(host: Arc<Host>, beginning: warm::Beginning) {
    let pools = warm::keep(&host, beginning);
    tokio::join!(watch_ends(&host), close_connections(&host), reap(&host), pools);
}

async fn watch_ends(host: &Host) {
    loop {
        sleep(LOOK_EVERY).await;
        if let Err(e) = archive_ended(host).await {
            tracing::debug!("{e}; stopping tasks are described again later");
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Archives the jobs whose tasks have ended, of those that only wait for that.
async fn archive_ended(host: &Host) -> Result<(), ControlError> {
    let engine = &host.engine;
    let mut clusters: HashMap<String, Vec<EndingJob>> = HashMap::new();
    let mut failure = None;
    for job in engine.store().ending_jobs(AT_ONCE).await {
        clusters.entry(job.cluster.clone()).or_default().push(job);
    }
    for (cluster, jobs) in clusters {
        let tasks: Vec<TaskArn> = jobs.iter().flat_map(|job| job.tasks.clone()).collect();
        let mut answers = Vec::new();
        for some in tasks.chunks(AT_ONCE) {
            match engine.control().describe(&cluster, some).await {
                Ok(described) => answers.extend(described),
                // A cluster that is gone must not keep the jobs of others.
                Err(e) => failure = Some(e),
            }
        }
        for job in jobs {
            match engine.conclude(&job.job, PURPOSE, &answers).await {
                Ok(Concluded::Archived | Concluded::NotYet | Concluded::Busy | Concluded::Gone) => {
                }
                Err(e) => tracing::warn!("job {} has ended and was not archived: {e}", job.job),
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn close_connections(host: &Host) {
    let Some(connections) = host.connections() else { return };
    loop {
        sleep(CLOSE_EVERY).await;
        connections.close_idle();
    }
}

async fn reap(host: &Host) {
    let reaper = Reaper { dry_run: false, older_than: OLDER_THAN, manager: None };
    let mut turns = interval(REAP_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns.tick().await;
    loop {
        turns.tick().await;
        match reaper.run(&host.config).await {
            Ok(summary) => tracing::debug!("reaped: {summary}"),
            Err(e) => tracing::warn!("the directory could not be reaped: {e}"),
        }
    }
}
