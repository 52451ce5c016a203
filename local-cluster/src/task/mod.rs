//! A task's container: a directory of its own, processes that carry its mark, an SSH server.

mod line;
pub(crate) mod processes;
mod sshd;

use std::{collections::BTreeMap, env, io, sync::Arc};

use tempfile::TempDir;

use crate::cluster::{Cluster, Task};

/// The container of a running task. Its directory goes when it is dropped.
pub(crate) struct Container {
    home: TempDir,
    environment: Arc<BTreeMap<String, String>>,
}

impl Container {
    pub(crate) fn new(cluster: &Cluster, task: &Task) -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("fargate-local-").tempdir()?;
        let place = home.path().display().to_string();
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned())),
            ("HOME".to_owned(), place.clone()),
            ("TMPDIR".to_owned(), place),
            ("AWS_REGION".to_owned(), cluster.settings.region.clone()),
        ]);
        environment.extend(task.launch.environment.iter().cloned());
        environment.insert(processes::MARK.to_owned(), task.id.clone());
        Ok(Self { home, environment: Arc::new(environment) })
    }

    /// Serves SSH until that fails.
    pub(crate) async fn serve(&self, cluster: &Arc<Cluster>, task: &Arc<Task>) -> io::Error {
        match sshd::serve(self, cluster, task).await {
            Err(e) => e,
            Ok(never) => match never {},
        }
    }
}
