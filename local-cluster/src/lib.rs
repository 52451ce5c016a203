//! An embedded ECS on loopback: the API in AWS's own protocol, and tasks that are real local
//! processes. Each task has a loopback address of its own, and a real SSH server or exec agent. The
//! latter has ECS Exec's API, AWS's session protocol, and a pseudo-terminal per session.
//!
//! It is for trying the driver without AWS, and for its tests: the driver does not see the
//! difference. Its faults can be scripted ([`Faults`], and over HTTP at `/_faults`), and it can
//! take as long as AWS Fargate does ([`Times`]). It isolates nothing: scripts run as the user who
//! started it. So calls must be signed with the cluster's own [`Credentials`], which other users of
//! the machine do not know.
//!
//! - `api`: the ECS actions and EC2's DescribeNetworkInterfaces, over HTTP (`server`);
//! - `cluster`: the state: clusters, task definitions, tasks;
//! - `definitions`: task definitions, what ECS checks in them, and how often they are registered;
//! - `credentials`: who may call it;
//! - `lifecycle`: a task from PROVISIONING to STOPPED; `times`: how long that takes;
//! - `task`: its SSH server and its processes;
//! - `containers`: containers with a root file system of their own, from [`images`];
//! - `exec`: its exec agent, and the service between the agent and its clients.

mod api;
mod clock;
mod cluster;
mod containers;
mod credentials;
mod definitions;
mod exec;
mod faults;
mod ids;
pub mod images;
mod lifecycle;
mod server;
mod settings;
mod task;
mod times;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, task::JoinHandle};

use cluster::Cluster;
pub use cluster::{Call, ContainerSummary, ContainerView, TaskView};
pub use credentials::Credentials;
pub use exec::{AgentRules, Overflow};
pub use faults::{
    Cut, CutKind, Death, EarlyEnd, EarlyStop, ExecFaults, Faults, LaunchFailure, Pause,
    RandomFaults, Refusal, SshFaults, Upgrades,
};
pub use settings::{ExecSettings, Handshake, INSTANCES, RegistrationRate, Settings};
pub use times::{Profile, Span, Times};

/// Why the cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The address is not on loopback: its calls and credentials would go over a network in the
    /// clear.
    #[error(
        "{0} is not a loopback address: the cluster's calls run processes on this machine, so it listens on 127.0.0.1 and ::1 only"
    )]
    NotLoopback(SocketAddr),
    /// The system refused another operation.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A running cluster. Dropping it kills what it started.
pub struct LocalCluster {
    cluster: Arc<Cluster>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl LocalCluster {
    /// Starts a cluster. It is ready when this returns.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let address = settings.listen;
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr()?;
        // Holds the port on 127.0.0.1, so that it stays free on the tasks' addresses.
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.ssh_port));
        let held = TcpListener::bind(wanted)
            .await
            .map_err(|source| StartError::Listen { address: wanted, source })?;
        let cluster = Arc::new(Cluster::new(settings, address, held)?);
        let server = tokio::spawn(server::serve(listener, Arc::clone(&cluster)));
        Ok(Self { cluster, address, server })
    }

    /// Returns the API's URL, for `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port on which every task's SSH server listens, at the task's own address.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.cluster.ssh_port()
    }

    /// Returns the credentials of calls, whose secret is also the bearer token of `/_faults` and
    /// the like.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.cluster.settings.credentials
    }

    /// Returns the current faults, with their remaining counts.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.cluster.faults().clone()
    }

    /// Replaces the faults.
    pub fn set_faults(&self, faults: Faults) {
        *self.cluster.faults() = faults;
    }

    /// Cuts every connection to a task now: SSH and ECS Exec.
    pub fn drop_connections(&self) {
        self.cluster.drop_connections();
    }

    /// Returns the last ten thousand API calls, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.cluster.calls()
    }

    /// Returns the tasks, oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskView> {
        self.cluster.views()
    }

    /// Returns the containers of running tasks that sessions lead to.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerView> {
        self.cluster.containers()
    }

    /// Stops every task and the server. When it returns, no process of a task is left.
    pub async fn shutdown(self) {
        self.server.abort();
        for id in self.cluster.stop_all("the local cluster is shut down") {
            self.cluster.until_stopped(&id).await;
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.server.abort();
        self.cluster.kill_all();
    }
}
