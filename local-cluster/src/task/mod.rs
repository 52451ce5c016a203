//! What answers in a task: an SSH server or an exec agent, and processes that carry the task's mark.

mod line;
pub(crate) mod processes;
mod sshd;

use std::{collections::BTreeMap, env, io, path::Path, sync::Arc};

use tempfile::TempDir;

use crate::{
    cluster::{Cluster, Task},
    containers::{self, Failure},
    definitions::ContainerDefinition,
    exec::Surroundings,
};

/// A running task. Dropping it removes the directory of its stand-ins, unless they have a keeper.
pub(crate) struct Running {
    _home: Option<TempDir>,
}

impl Running {
    /// Starts the task's containers.
    pub(crate) async fn start(cluster: &Arc<Cluster>, task: &Arc<Task>) -> Result<Self, Failure> {
        let (home, own) = match containers::prepare(cluster, task).await? {
            Some(home) => (home, None),
            None => {
                let made = tempfile::Builder::new().prefix("fargate-local-").tempdir();
                let home = made.map_err(|e| Failure {
                    container: containers::coordinator(&task.launch.definition).name.clone(),
                    reason: format!("CannotStartContainerError: no directory for the task: {e}"),
                })?;
                (home.path().to_owned(), Some(home))
            }
        };
        let stand_ins =
            task.launch.definition.containers.iter().map(|container| {
                (container.name.clone(), stand_in(cluster, task, container, &home))
            });
        containers::start(cluster, task, stand_ins.collect()).await?;
        Ok(Self { _home: own })
    }

    /// Runs the SSH server and, if requested, the exec agent, until one fails.
    ///
    /// A task with an agent and without a key is one whose image has no SSH server.
    pub(crate) async fn serve(&self, cluster: &Arc<Cluster>, task: &Arc<Task>) -> io::Error {
        let coordinator = &containers::coordinator(&task.launch.definition).name;
        let started = task.runtime.surroundings.get();
        let Some(surroundings) = started.and_then(|containers| containers.get(coordinator)) else {
            return io::Error::other("its container did not start");
        };
        let has_server =
            !task.launch.exec || surroundings.environment.contains_key("SSH_PUBLIC_KEY");
        let ssh = async {
            if has_server {
                sshd::serve(surroundings, cluster, task).await
            } else {
                std::future::pending().await
            }
        };
        let exec = async {
            if task.launch.exec {
                task.agent.serve(cluster, task).await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            ended = ssh => match ended {
                Err(e) => e,
                Ok(never) => match never {},
            },
            never = exec => match never {},
        }
    }
}

/// Returns the surroundings of a container that is a stand-in: processes of the host.
fn stand_in(
    cluster: &Cluster,
    task: &Task,
    container: &ContainerDefinition,
    home: &Path,
) -> Surroundings {
    let place = home.display().to_string();
    let mut environment = BTreeMap::from([
        (
            "PATH".to_owned(),
            env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ),
        ("HOME".to_owned(), place.clone()),
        ("TMPDIR".to_owned(), place),
        ("AWS_REGION".to_owned(), cluster.settings.region.clone()),
    ]);
    environment.extend(container.environment.iter().cloned());
    if let Some(given) = task.launch.container_overrides.get(&container.name) {
        environment.extend(given.environment.iter().cloned());
    }
    environment.insert(processes::MARK.to_owned(), task.id.clone());
    Surroundings {
        environment: Arc::new(environment),
        directory: home.to_owned(),
        enter: Vec::new(),
    }
}
