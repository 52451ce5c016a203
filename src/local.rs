//! `fargate local-cluster`: the embedded cluster as a server, and how the driver is pointed at it.

use std::{net::SocketAddr, path::Path};

use local_cluster::{LocalCluster, Settings, StartError};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::TransportKind;

/// `fargate.toml` for the embedded cluster.
#[must_use]
pub fn configuration(transport: TransportKind, ssh_port: u16, metadata: &Path) -> String {
    let transport = match transport {
        TransportKind::Ssh => format!("[SSH]\nUsername = \"root\"\nPort = {ssh_port}\n"),
        TransportKind::EcsExec => "[ECSExec]\n".to_owned(),
    };
    format!(
        r#"[Fargate]
Cluster = "local"
Region = "us-east-1"
Subnet = "subnet-local"
SecurityGroup = "sg-local"
TaskDefinition = "local-job:1"
LaunchType = "FARGATE"

[TaskMetadata]
Directory = {}

{transport}"#,
        toml::Value::from(metadata.display().to_string())
    )
}

/// Environment that points the AWS SDK at the embedded cluster, whatever else is configured on this machine.
#[must_use]
pub fn environment(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ENDPOINT_URL_ECS", endpoint),
        ("AWS_ENDPOINT_URL_EC2", endpoint),
        ("AWS_ENDPOINT_URL_KMS", endpoint),
        ("AWS_ENDPOINT_URL_SSM", endpoint),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("NO_PROXY", "127.0.0.0/8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Serves until SIGTERM or SIGINT; then every task is stopped.
///
/// # Errors
/// When the cluster cannot listen, or signals cannot be listened for.
pub async fn serve(listen: SocketAddr) -> Result<(), StartError> {
    let mut term = signal(SignalKind::terminate()).map_err(StartError::from)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::from)?;
    let cluster = LocalCluster::start(Settings { listen, ..Settings::default() }).await?;
    println!("local cluster ready: {} (ssh port {})", cluster.endpoint(), cluster.ssh_port());
    println!("\nIts tasks are processes of this user on this machine: run only scripts that you trust.\n\nfargate.toml:\n");
    print!("{}", configuration(TransportKind::Ssh, cluster.ssh_port(), Path::new("/var/lib/fargate/metadata")));
    println!("\nEnvironment of the driver (for gitlab-runner: `environment` in config.toml):\n");
    for (name, value) in environment(&cluster.endpoint()) {
        println!("{name}={value}");
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    cluster.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_driver_takes() {
        let exec = configuration(TransportKind::EcsExec, 2222, Path::new("/tmp"));
        assert_eq!(crate::config::Config::parse(&exec, Path::new("fargate.toml")).unwrap().0.transport, TransportKind::EcsExec);
        let text = configuration(TransportKind::Ssh, 2222, Path::new("/tmp/with \"quotes\""));
        let (config, warnings) = crate::config::Config::parse(&text, Path::new("fargate.toml")).unwrap();
        assert_eq!(config.ssh.port, 2222);
        assert_eq!(config.metadata.directory, Path::new("/tmp/with \"quotes\""));
        assert_eq!(warnings, []);
    }
}
