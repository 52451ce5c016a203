//! `fargate local-cluster`: the embedded cluster as a server, and how the driver is pointed at it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use local_cluster::{Credentials, LocalCluster, Profile, Settings, StartError, Times};
use tokio::signal::unix::{SignalKind, signal};
use transports::{Declaration, ecs_exec, ssh};

/// `fargate.toml` for the embedded cluster.
#[must_use]
pub fn configuration(transport: &Declaration, ssh_port: u16, metadata: &Path) -> String {
    let (choice, mut table) = match transport.table {
        Some(table) => (String::new(), format!("[{table}]\n")),
        None => (format!("Transport = {:?}\n\n", transport.name()), String::new()),
    };
    if transport.needs_login {
        table.push_str(&format!("Username = \"root\"\nPort = {ssh_port}\n"));
    }
    format!(
        r#"{choice}[Fargate]
Cluster = "local"
Region = "us-east-1"
Subnet = "subnet-local"
SecurityGroup = "sg-local"
TaskDefinition = "local-job:1"
LaunchType = "FARGATE"

[TaskMetadata]
Directory = {}

{table}"#,
        toml::Value::from(metadata.display().to_string())
    )
}

/// Environment that points the AWS SDK at the embedded cluster, with its credentials, whatever else
/// is configured on this machine.
#[must_use]
pub fn environment(endpoint: &str, credentials: &Credentials) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ENDPOINT_URL_ECS", endpoint),
        ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", endpoint),
        ("AWS_ENDPOINT_URL_EC2", endpoint),
        ("AWS_ENDPOINT_URL_KMS", endpoint),
        ("AWS_ENDPOINT_URL_SSM", endpoint),
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key.as_str()),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("NO_PROXY", "127.0.0.0/8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// What the user says of the embedded cluster's times: see [`Times`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeOptions {
    /// How long things take; `None`: nothing is said, which is [`Profile::Quick`].
    pub profile: Option<Profile>,
    /// What everything is multiplied by.
    pub scale: f64,
    /// Where the drawing begins; `None`: anywhere.
    pub seed: Option<u64>,
}

impl TimeOptions {
    /// The cluster's settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        Settings::of(self.profile.unwrap_or_default(), self.scale, seed)
    }

    /// A line that tells how the same times are drawn again, where there are any to be drawn.
    pub(crate) fn described(&self, times: &Times) -> Option<String> {
        let fargate = self.profile == Some(Profile::Fargate);
        fargate.then(|| {
            format!(
                "Tasks take as long as on Fargate, times {}; --seed {} draws the same times again.",
                times.scale, times.seed
            )
        })
    }
}

/// Serves until SIGTERM or SIGINT; then every task is stopped.
///
/// # Errors
/// When the cluster cannot listen, or signals cannot be listened for.
pub async fn serve(
    listen: SocketAddr,
    options: TimeOptions,
    images: Option<PathBuf>,
) -> Result<(), StartError> {
    let mut term = signal(SignalKind::terminate()).map_err(StartError::from)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::from)?;
    if let Some(why) = images.as_deref().and_then(obstacle) {
        eprintln!("fargate: warning: {why}");
    }
    let settings = options.settings();
    let times = settings.times;
    let cluster = LocalCluster::start(Settings { listen, images, ..settings }).await?;
    println!("local cluster ready: {} (ssh port {})", cluster.endpoint(), cluster.ssh_port());
    if let Some(line) = options.described(&times) {
        println!("{line}");
    }
    print!(
        "{}",
        instructions(&cluster.endpoint(), cluster.credentials(), cluster.ssh_port(), &metadata())
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    cluster.shutdown().await;
    Ok(())
}

/// Returns why no container with an image of this directory will start, if there is a reason.
fn obstacle(images: &Path) -> Option<String> {
    if !images.is_dir() {
        return Some(format!(
            "--images {}: it is not a directory, so containers with images do not start",
            images.display()
        ));
    }
    local_cluster::images::available().err()
}

/// How the driver, or the gitlab-runner that calls it, is pointed at the cluster.
fn instructions(
    endpoint: &str,
    credentials: &Credentials,
    ssh_port: u16,
    metadata: &Path,
) -> String {
    let exports: String = environment(endpoint, credentials)
        .iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    let [ssh, exec] = [&ssh::DECLARATION, &ecs_exec::DECLARATION]
        .map(|transport| configuration(transport, ssh_port, metadata));
    format!(
        "
Its tasks are processes of this user on this machine: run only scripts that you trust.

1. Start gitlab-runner, or the driver itself, with this environment. (What `environment` in gitlab-runner's config.toml
   names are variables of the jobs: the driver does not get them.) The access key is new at each start. Keep it to
   yourself: with it, another user of this machine can run processes as you.

{exports}
2. fargate.toml, for SSH:

{ssh}
   or for ECS Exec, where nothing listens in the containers:

{exec}
3. `fargate --config fargate.toml try SCRIPT` runs a first job here.
"
    )
}

/// A directory of this user's own.
fn metadata() -> PathBuf {
    home().join(".local/state/fargate-local-cluster")
}

/// Where `scripts/root-filesystems` puts images.
#[must_use]
pub fn images() -> PathBuf {
    home().join(".cache/fargate-driver/root-filesystems")
}

fn home() -> PathBuf {
    std::env::home_dir().filter(|home| home.is_absolute()).unwrap_or_else(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_driver_takes() {
        let exec = configuration(&ecs_exec::DECLARATION, 2222, Path::new("/tmp"));
        assert_eq!(
            crate::config::Config::parse(&exec, Path::new("fargate.toml")).unwrap().0.transport,
            &ecs_exec::DECLARATION
        );
        let text = configuration(&ssh::DECLARATION, 2222, Path::new("/tmp/with \"quotes\""));
        let (config, warnings) =
            crate::config::Config::parse(&text, Path::new("fargate.toml")).unwrap();
        assert_eq!(config.ssh.port, 2222);
        assert_eq!(config.metadata.directory, Path::new("/tmp/with \"quotes\""));
        assert_eq!(warnings, []);
    }

    #[test]
    fn a_directory_of_images_that_is_missing_is_named() {
        let why = obstacle(Path::new("/nowhere/images")).unwrap();
        assert!(why.starts_with("--images /nowhere/images: it is not a directory"), "{why}");
    }

    #[test]
    fn the_instructions_are_taken_by_a_shell_and_by_the_driver() {
        let credentials = Credentials::random();
        let text = instructions(
            "http://127.0.0.1:4711",
            &credentials,
            2222,
            Path::new("/home/me/metadata"),
        );
        let exports: String = text
            .lines()
            .filter(|line| line.starts_with("export "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let script = format!(
            "{exports}printf '%s %s %s' \"$AWS_ENDPOINT_URL\" \"$AWS_ACCESS_KEY_ID\" \"$AWS_SECRET_ACCESS_KEY\""
        );
        let shell =
            std::process::Command::new("sh").env_clear().args(["-c", &script]).output().unwrap();
        let expected = format!(
            "http://127.0.0.1:4711 {} {}",
            credentials.access_key_id, credentials.secret_access_key
        );
        assert_eq!(String::from_utf8_lossy(&shell.stdout), expected);
        let files: Vec<&str> = text
            .split("[Fargate]")
            .skip(1)
            .map(|file| file.split("\n\n   ").next().unwrap())
            .collect();
        let kinds = files.iter().map(|file| {
            let file = file.split("\n\n3. ").next().unwrap();
            let (config, warnings) = crate::config::Config::parse(
                &format!("[Fargate]{file}"),
                Path::new("fargate.toml"),
            )
            .unwrap();
            assert_eq!(
                (config.metadata.directory.as_path(), warnings),
                (Path::new("/home/me/metadata"), vec![])
            );
            config.transport
        });
        assert_eq!(kinds.collect::<Vec<_>>(), [&ssh::DECLARATION, &ecs_exec::DECLARATION]);
    }
}
