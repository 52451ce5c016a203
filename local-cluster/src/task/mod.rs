//! A task's container: a directory of its own, processes that carry its mark, an SSH server or an
//! exec agent.

mod line;
pub(crate) mod processes;
mod sshd;

use std::{collections::BTreeMap, env, io, sync::Arc};

use tempfile::TempDir;

use crate::{
    cluster::{Cluster, Task},
    exec::Surroundings,
};

/// The container of a running task. Dropping it removes its directory.
pub(crate) struct Container {
    home: TempDir,
    environment: Arc<BTreeMap<String, String>>,
}

impl Container {
    pub(crate) fn new(cluster: &Cluster, task: &Task) -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("fargate-local-").tempdir()?;
        let place = home.path().display().to_string();
        let mut environment = BTreeMap::from([
            (
                "PATH".to_owned(),
                env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ),
            ("HOME".to_owned(), place.clone()),
            ("TMPDIR".to_owned(), place),
            ("AWS_REGION".to_owned(), cluster.settings.region.clone()),
        ]);
        let overrides = task.launch.container_overrides.values();
        environment.extend(overrides.flat_map(|one| one.environment.iter().cloned()));
        environment.insert(processes::MARK.to_owned(), task.id.clone());
        let environment = Arc::new(environment);
        let surroundings = Surroundings {
            environment: Arc::clone(&environment),
            directory: home.path().to_owned(),
        };
        // A task has one container here.
        let _ = task.surroundings.set(surroundings);
        Ok(Self { home, environment })
    }

    /// Runs the SSH server and, if requested, the exec agent, until one fails.
    ///
    /// A task with an agent and without a key is one whose image has no SSH server.
    pub(crate) async fn serve(&self, cluster: &Arc<Cluster>, task: &Arc<Task>) -> io::Error {
        let has_server = !task.launch.exec || self.environment.contains_key("SSH_PUBLIC_KEY");
        let ssh = async {
            if has_server {
                sshd::serve(self, cluster, task).await
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
