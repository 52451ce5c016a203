//! Tests `deploy/ssh-entrypoint.sh` unchanged, in a mount namespace in place of a container: with a
//! home, a `/run` and an `/etc` of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use states::{ConnectErrorKind, Destination, Greeting, HostProof, Login, Target, TaskArn};
use tempfile::TempDir;
use transports::{
    Connector as _,
    delivery::Session,
    ssh::{SshSettings, SshTransport, key, proof},
};

const ENTRY_POINT: &str = include_str!("../../../deploy/ssh-entrypoint.sh");

/// Commands that prepare an image before the entry point runs.
const PREPARE: &str = r#"
set -e
mount --make-rprivate /
cp -a /etc "$PLACE/etc" && mount --bind "$PLACE/etc" /etc
mount -t tmpfs -o mode=755 none /run && mount -t tmpfs -o mode=700 none /root
mkdir -m 777 /root/.ssh
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlsZWZ0IG92ZXIgaW4gdGhlIGltYWdlIGhlcmUhISEh old' > /root/.ssh/authorized_keys
"#;

/// A container that runs the entry point.
struct Container {
    place: TempDir,
    server: Child,
    port: u16,
}

impl Container {
    /// Starts it with this shell, in an image prepared by these commands.
    fn start(shell: &str, image: &str, with_secret: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let pair = key::generate().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("job.key"), &pair.private).unwrap();
        fs::set_permissions(path("job.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = ENTRY_POINT.replace("\nport=22\n", &format!("\nport={port}\n"));
        assert_ne!(script, ENTRY_POINT, "the port is set in one place");
        fs::write(path("entrypoint.sh"), script).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args([
                "-m",
                "sh",
                "-c",
                &format!("{PREPARE}{image}\nexec {shell} \"$PLACE/entrypoint.sh\""),
            ])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/made/for/the/test",
            )
            .env("HOME", "/root")
            .env("PLACE", place.path())
            .env("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/x")
            .env("SSH_PUBLIC_KEY", &pair.public)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if with_secret {
            command.env(proof::VARIABLE, proof::secret(&path("job.key")).unwrap());
        }
        let server = command.spawn().unwrap();
        let mut container = Self { place, server, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                container.server.try_wait().unwrap().is_none(),
                "it ended: {}",
                container.log()
            );
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "it does not listen: {}",
                container.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        container
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Returns the server's first line.
    fn says(&self) -> String {
        let mut line = String::new();
        BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap())
            .read_line(&mut line)
            .unwrap();
        line.trim_end().to_owned()
    }

    fn target(&self, host_proof: HostProof) -> Target {
        let login = Some(Login { user: "root".to_owned(), port: self.port });
        Target {
            transport: "ssh".into(),
            destination: Destination::Address { host: "127.0.0.1".to_owned(), login },
            cluster: "test".to_owned(),
            task: TaskArn::new("arn:aws:ecs:eu-west-1:123456789012:task/test/1").unwrap(),
            container: "ci-coordinator".to_owned(),
            key: self.place.path().join("job.key"),
            pinned: None,
            host_proof: Some(host_proof),
            facts: None,
            shared: None,
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(30),
        }
    }

    async fn connect(
        &self,
        host_proof: HostProof,
    ) -> Result<(Session, Greeting), states::ConnectError> {
        SshTransport::new(SshSettings::default()).connect(&self.target(host_proof)).await
    }

    /// Returns OpenSSH's client, with the job's key.
    fn ssh(&self, arguments: &[&str]) -> Output {
        let options = [
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ];
        let key = self.place.path().join("job.key").display().to_string();
        let port = self.port.to_string();
        Command::new("ssh")
            .args(options)
            .args(["-i", &key, "-p", &port])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("OpenSSH's client is installed")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Shells and images: with the usual programs, without some of them, with a locked account.
/// The last one has busybox's programs, as Alpine.
const PLACES: [(&str, &str); 6] = [
    ("dash", ""),
    ("bash", "mount --bind /dev/null /usr/bin/sha256sum"),
    ("busybox sh", ""),
    ("dash", "mount --bind /dev/null /usr/bin/sha256sum"),
    (
        "busybox sh",
        "sed -i 's/^root:[^:]*:/root:!:/' /etc/shadow && mount --bind /dev/null /usr/bin/openssl",
    ),
    (
        "busybox sh",
        "sed -i 's/^root:[^:]*:/root:!:/' /etc/shadow && mkdir /run/applets && busybox --install -s /run/applets && PATH=/run/applets:$PATH",
    ),
];

#[tokio::test]
#[ignore = "needs root (mount namespaces) and OpenSSH (scripts/test runs it)"]
async fn the_entry_point_proves_a_fresh_host_key_in_every_shell() {
    let mut seen = Vec::new();
    for (shell, image) in PLACES {
        let container = Container::start(shell, image, true);
        let says = container.says();
        assert!(says.contains(" fargate-host-proof=1:") && says.len() <= 253, "{shell}: {says}");
        let connected = container.connect(HostProof::Required).await;
        let (session, greeting) =
            connected.unwrap_or_else(|e| panic!("{shell}, {image}: {e}: {}", container.log()));
        let said = crate::run(
            &session,
            "environment",
            "echo $PATH; echo $ECS_CONTAINER_METADATA_URI_V4; env | grep -c PROOF; id -u",
        )
        .await;
        let said = String::from_utf8(said.output).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].ends_with("/made/for/the/test"), "{shell}: {said}");
        assert_eq!(
            lines[1..],
            ["http://169.254.170.2/v4/x", "0", "0"],
            "{shell}: metadata, secrets, user"
        );
        let baked = ["ed25519", "ecdsa"].map(|kind| {
            fs::read_to_string(format!("/etc/ssh/ssh_host_{kind}_key.pub")).unwrap_or_default()
        });
        assert!(
            !baked.iter().any(|baked| baked.starts_with(&greeting.identity.0)),
            "{shell}: the image's key"
        );
        assert!(!seen.contains(&greeting.identity.0), "{shell}: a key that was there before");
        seen.push(greeting.identity.0);
    }
}

#[tokio::test]
#[ignore = "needs root (mount namespaces) and OpenSSH (scripts/test runs it)"]
async fn the_entry_point_offers_no_proof_without_a_digest_program() {
    let container = Container::start(
        "dash",
        "for name in sha256sum openssl; do mount --bind /dev/null /usr/bin/$name; done",
        true,
    );
    assert!(!container.says().contains("fargate"), "{}", container.says());
    assert!(container.log().contains("the host key is not proven"), "{}", container.log());
    assert!(container.connect(HostProof::Offered).await.is_ok(), "{}", container.log());
}

#[tokio::test]
#[ignore = "needs root (mount namespaces) and OpenSSH (scripts/test runs it)"]
async fn the_entry_point_without_a_secret_serves_older_drivers_without_proof() {
    let container = Container::start("sh", "", false);
    assert!(!container.says().contains("fargate"), "{}", container.says());
    assert!(container.connect(HostProof::Offered).await.is_ok(), "{}", container.log());
    assert_eq!(
        container.connect(HostProof::Required).await.err().unwrap().kind,
        ConnectErrorKind::IdentityUnproven
    );
}

/// OpenSSH without PAM refuses keys of locked accounts. So this fails if the entry point only claims to
/// unlock root, and if the server of this machine would admit it anyway.
#[tokio::test]
#[ignore = "needs root (mount namespaces) and OpenSSH (scripts/test runs it)"]
async fn the_entry_point_says_if_root_stays_locked() {
    // A file that is mounted cannot be replaced.
    const LOCKED: &str =
        "sed -i 's/^root:[^:]*:/root:!:/' /etc/shadow && mount --bind /etc/shadow /etc/shadow";
    let container = Container::start("busybox sh", LOCKED, true);
    assert!(container.log().contains("root is locked in /etc/shadow"), "{}", container.log());
    let refused = container.connect(HostProof::Required).await.err().expect("a locked account");
    assert_eq!(refused.kind, ConnectErrorKind::AuthRefused, "{refused}: {}", container.log());
    assert!(container.log().contains("account is locked"), "{}", container.log());
}

#[test]
#[ignore = "needs root (mount namespaces) and OpenSSH (scripts/test runs it)"]
fn the_entry_points_server_takes_keys_only_and_forwards_nothing() {
    let container = Container::start(
        "sh",
        "printf 'PermitRootLogin yes\\nPasswordAuthentication yes\\n' > /etc/ssh/sshd_config",
        true,
    );
    let words = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let plain = container.ssh(&["root@127.0.0.1", "echo in"]);
    assert_eq!(plain.stdout, b"in\n", "{}", words(&plain));
    let by_password =
        container.ssh(&["-o", "PubkeyAuthentication=no", "root@127.0.0.1", "echo in"]);
    assert!(
        words(&by_password).contains("Permission denied (publickey)"),
        "{}",
        words(&by_password)
    );
    let forwarded =
        container.ssh(&["-W", &format!("127.0.0.1:{}", container.port), "root@127.0.0.1"]);
    assert!(!forwarded.status.success() && forwarded.stdout.is_empty(), "{}", words(&forwarded));
    assert!(words(&forwarded).contains("prohibited"), "{}", words(&forwarded));
    let back = container.ssh(&[
        "-o",
        "ExitOnForwardFailure=yes",
        "-R",
        "0:127.0.0.1:1",
        "root@127.0.0.1",
        "echo in",
    ]);
    assert!(
        !back.status.success() && words(&back).contains("forwarding failed"),
        "{}",
        words(&back)
    );
    let tunnel = container.ssh(&[
        "-v",
        "-A",
        "-w",
        "any",
        "root@127.0.0.1",
        "echo agent=$SSH_AUTH_SOCK display=$DISPLAY",
    ]);
    assert!(!String::from_utf8_lossy(&tunnel.stdout).contains("agent=/"), "{tunnel:?}");
}
