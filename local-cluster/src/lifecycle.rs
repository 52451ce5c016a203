//! A task's lifecycle, from PROVISIONING to STOPPED.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Status, Stop, Task},
    containers::{self, Failure},
    exec::Stage,
    faults::Death,
    task::{Running, processes},
};

/// Runs the task from PROVISIONING to STOPPED.
pub(crate) async fn live(cluster: Arc<Cluster>, task: Arc<Task>) {
    let running = tokio::select! {
        () = task.stop_requested() => None,
        running = start(&cluster, &task) => running,
    };
    if let Some(running) = &running {
        run(&cluster, &task, running).await;
    }
    end(&cluster, &task).await;
    // A session may have begun in the moment of its container's end.
    processes::signal(&task.id, Signal::KILL);
    drop(running);
    task.enter(Status::Stopped);
}

/// Runs the task up to RUNNING. `None` if it stops before.
async fn start(cluster: &Arc<Cluster>, task: &Arc<Task>) -> Option<Running> {
    let times = &task.times;
    sleep(times.provisioning).await;
    task.enter(Status::Pending);
    sleep(times.pending).await;
    let (never, early) = {
        let faults = cluster.faults();
        (faults.never_starts, faults.stops_early.clone())
    };
    if never {
        std::future::pending::<()>().await;
    }
    if let Some(early) = early {
        task.request_stop(Stop {
            code: early.code,
            reason: early.reason,
            container_reason: early.container_reason,
            exit_code: early.exit_code,
        });
        return None;
    }
    let started = async {
        containers::pull(cluster, task)?;
        task.enter(Status::Activating);
        sleep(times.activating).await;
        Running::start(cluster, task).await
    };
    match started.await {
        Ok(running) => Some(running),
        Err(Failure { container, reason }) => {
            task.runtime.states.stop(&container, None, Some(reason.clone()));
            task.request_stop(Stop {
                code: "TaskFailedToStart".to_owned(),
                reason,
                container_reason: None,
                exit_code: None,
            });
            None
        }
    }
}

/// Keeps the task RUNNING until it has to stop.
async fn run(cluster: &Arc<Cluster>, task: &Arc<Task>, running: &Running) {
    task.enter(Status::Running);
    let death = cluster.faults().dies.clone();
    let dies = async {
        match &death {
            Some(death) => sleep(Duration::from_millis(death.after_ms)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = task.stop_requested() => {}
        () = dies => {
            if let Some(Death { after_ms: _, code, reason, container_reason, exit_code }) = death {
                crash(task, Stop { code, reason, container_reason, exit_code });
            }
        }
        error = running.serve(cluster, task) => {
            let reason = format!("the SSH server ended: {error}");
            task.request_stop(Stop { code: "EssentialContainerExited".to_owned(), reason: "Essential container in task exited".to_owned(), container_reason: Some(reason), exit_code: Some(1) });
        }
    }
}

/// Ends a running task like a crash, without SIGTERM.
pub(crate) fn crash(task: &Task, stop: Stop) {
    processes::signal(&task.id, Signal::KILL);
    containers::crash(task);
    task.request_stop(stop);
}

async fn end(cluster: &Cluster, task: &Arc<Task>) {
    let times = &task.times;
    task.enter(Status::Deactivating);
    sleep(times.deactivating).await;
    task.enter(Status::Stopping);
    task.agent.enter(Stage::Leaving);
    tokio::join!(
        processes::end(&task.id, times.stop_timeout),
        containers::stop(task, times.stop_timeout, cluster.settings.times.scale),
        sleep(times.stopping)
    );
    containers::finish(task).await;
    task.agent.enter(Stage::Gone);
    task.enter(Status::Deprovisioning);
    sleep(times.deprovisioning).await;
}
