//! An OpenSSH server on loopback, until the value is dropped.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Paths of distributions; it must be started by its full path.
const SSHD: &str = "/usr/sbin/sshd";

/// A running server.
pub(crate) struct Sshd {
    directory: TempDir,
    port: u16,
    /// Additional lines of its configuration.
    more: String,
    server: Option<Child>,
}

impl Sshd {
    /// Whether a server is installed.
    #[allow(dead_code, reason = "only the benchmark asks")]
    pub(crate) fn is_installed() -> bool {
        Path::new(SSHD).exists()
    }

    /// Starts a server that accepts the key in [`Sshd::key`] for the current user, and waits until
    /// it answers.
    pub(crate) fn start() -> Self {
        let mut sshd = Self::prepare();
        sshd.serve();
        sshd
    }

    /// Prepares everything but the server.
    pub(crate) fn prepare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = transports::ssh::key::generate().unwrap();
        fs::write(directory.path().join("key"), &pair.private).unwrap();
        fs::set_permissions(directory.path().join("key"), fs::Permissions::from_mode(0o600))
            .unwrap();
        fs::write(directory.path().join("authorized_keys"), format!("{}\n", pair.public)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sshd = Self { directory, port, more: String::new(), server: None };
        sshd.new_host_key("ed25519");
        sshd
    }

    /// Adds a line to the configuration, for the next start.
    #[allow(dead_code, reason = "only the tests do")]
    pub(crate) fn configure(&mut self, line: &str) {
        self.more.push_str(line);
        self.more.push('\n');
    }

    /// Replaces the host key, for the next start.
    pub(crate) fn new_host_key(&self, kind: &str) {
        let file = self.file("host_key");
        let _ = fs::remove_file(&file);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", kind, "-f"])
            .arg(&file)
            .status()
            .unwrap();
        assert!(made.success());
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn serve(&mut self) {
        // SHLVL keeps bash, as a login shell, from reading the current user's ~/.bashrc.
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nPrintLastLog no\n\
             MaxStartups 200\nLogLevel ERROR\nSetEnv SHLVL=2\n{}",
            self.port,
            self.file("host_key").display(),
            self.file("authorized_keys").display(),
            self.more
        );
        fs::write(self.file("sshd_config"), config).unwrap();
        // sshd needs it if root starts it, and packages create it only where a service manager
        // runs.
        let _ = fs::create_dir_all("/run/sshd");
        let log = self.file("log");
        let stderr = fs::File::create(&log).unwrap();
        let server = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(self.file("sshd_config"))
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn();
        let server = self.server.insert(server.unwrap());
        let start = Instant::now();
        while !answers(self.port) {
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(server.try_wait().unwrap().is_none(), "sshd ended: {}", log());
            assert!(start.elapsed() < Duration::from_secs(30), "sshd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the server, but not the open connections.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Sends a signal to the processes that serve connections.
    #[allow(dead_code, reason = "only the tests do")]
    pub(crate) fn signal_sessions(&self, signal: &str) {
        let main = self.server.as_ref().unwrap().id();
        let mut found = children(main);
        // Where privileges are separated, the session is a child of the connection's process.
        let nested: Vec<_> = found
            .iter()
            .flat_map(|pid| children(*pid))
            .filter(|pid| name(*pid).starts_with("sshd"))
            .collect();
        found.extend(nested);
        assert!(!found.is_empty(), "no connection is open");
        for pid in found {
            // One may have ended with the other.
            let _ = Command::new("/bin/sh")
                .args(["-c", &format!("kill -{signal} {pid} 2>/dev/null")])
                .status()
                .unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the accepted private key.
    pub(crate) fn key(&self) -> PathBuf {
        self.file("key")
    }

    /// Returns a path beside the server's own files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the current user, the only one whom the server admits.
    pub(crate) fn user() -> String {
        let output = Command::new("id").arg("-un").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut greeting = [0; 4];
    socket.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
}

fn children(of: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn name(of: u32) -> String {
    fs::read_to_string(format!("/proc/{of}/comm")).unwrap_or_default()
}
