//! What the job log says of services after a script: which of them have ended, and their last
//! lines.

use std::time::Duration;

use states::{
    Header, Seen, ServiceContainer, Snapshot, TaskArn, TaskControl as _, foreign_text::clipped,
};

use super::{JobLog, Session};

/// How long a job's log may wait for all of it.
const TIME: Duration = Duration::from_secs(5);
/// Lines of each service.
const LINES: u32 = 20;

/// Says which services have ended. With `CI_DEBUG_SERVICES`, shows the last lines of all.
pub(super) async fn report(session: &Session, snapshot: &Snapshot, log: &mut JobLog) {
    let header = snapshot.job.header();
    let services = header.spec.additions.as_ref().map_or(&[][..], |added| &added.services);
    let (Some(task), false) = (snapshot.job.task(), services.is_empty()) else { return };
    // What is not known within this time is not worth waiting for.
    let _ = tokio::time::timeout(TIME, describe(session, header, services, task, log)).await;
}

async fn describe(
    session: &Session,
    header: &Header,
    services: &[ServiceContainer],
    task: &TaskArn,
    log: &mut JobLog,
) {
    let control = session.engine().control();
    let cluster = &header.spec.cluster;
    let described = match control.describe(cluster, std::slice::from_ref(task)).await {
        Ok(described) => described,
        Err(e) => return tracing::warn!("the services of the task are not known: {e}"),
    };
    let Some(Seen::Task(report)) = described.into_iter().next().map(|described| described.seen)
    else {
        return;
    };
    let shows_all = session
        .environment()
        .job_variable("CI_DEBUG_SERVICES")
        .is_some_and(|value| value == "true");
    for service in services {
        let name = clipped(&service.image.name);
        let ended = report.container(&service.name).filter(|container| {
            container.exit_code.is_some() || container.status.as_deref() == Some("STOPPED")
        });
        if let Some(container) = ended {
            let code = container
                .exit_code
                .map_or_else(String::new, |code| format!(" with exit code {code}"));
            let reason = container
                .reason
                .as_ref()
                .map_or_else(String::new, |reason| format!(": {}", clipped(reason)));
            log.say(&format!("WARNING: the service {name} has ended{code}{reason}"));
        }
        if ended.is_none() && !shows_all {
            continue;
        }
        match control.last_lines(cluster, task, &service.name, LINES).await {
            Ok(lines) => lines.iter().for_each(|line| log.say(&format!("{name} | {line}"))),
            Err(e) => tracing::warn!("the log of service {name} cannot be read: {e}"),
        }
    }
}
