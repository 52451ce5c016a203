//! A real OpenSSH server that stands for a task's container.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::processes;

/// A running sshd. Dropping it ends its sessions, too.
pub struct Sshd {
    mark: String,
    server: Child,
    place: TempDir,
}

impl Sshd {
    /// Starts sshd on the address, for one key, with a proof of its host key under the secret.
    /// Commands run with `mark` in their environment.
    pub fn start(address: Ipv4Addr, port: u16, public_key: &str, secret: &str, mark: &str) -> Self {
        let place = tempfile::Builder::new().prefix("fargate-sshd-").tempdir().unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        make_host_key(place.path());
        fs::write(path("authorized"), public_key).unwrap();
        fs::create_dir(path("tmp")).unwrap();
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nSetEnv {mark} TMPDIR={}\n\
             PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 200\nPrintMotd no\nVersionAddendum {}\n",
            path("host"),
            path("authorized"),
            path("tmp"),
            proof(place.path(), secret),
        );
        fs::write(path("config"), config).unwrap();
        Self { mark: mark.to_owned(), server: serve(place.path()), place }
    }

    /// Kills the server and its connections. Processes in the container continue.
    pub fn kill(&mut self) {
        for pid in processes::children_named("sshd", self.server.id()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.server.kill();
        self.server.wait().unwrap();
    }

    /// Restarts the killed server, with its old host key or with another one, as in another
    /// container.
    pub fn start_again(&mut self, another_key: bool) {
        if another_key {
            fs::remove_file(self.place.path().join("host")).unwrap();
            make_host_key(self.place.path());
        }
        self.server = serve(self.place.path());
    }
}

/// Returns the proof of the host key, made by the shipped entry point.
fn proof(place: &Path, secret: &str) -> String {
    let entry_point = include_str!("../../deploy/ssh-entrypoint.sh");
    let begin = entry_point.find("\nsha256() {").expect("the entry point's functions");
    let end = begin + entry_point[begin..].find("\n# Proves").expect("what uses them");
    let program = format!(
        "set -eu{}\nprintf 'fargate-host-proof=1 %s' \"$(cut -d ' ' -f 1,2 \"$2\")\" | hmac \"$1\"",
        &entry_point[begin..end]
    );
    let made = Command::new("sh")
        .args(["-c", &program, "proof", secret])
        .arg(place.join("host.pub"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    format!("fargate-host-proof=1:{}", String::from_utf8(made.stdout).unwrap().trim_end())
}

fn make_host_key(place: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(place.join("host"))
        .status()
        .unwrap();
    assert!(made.success(), "ssh-keygen failed");
}

fn serve(place: &Path) -> Child {
    let log = fs::OpenOptions::new().append(true).create(true).open(place.join("log")).unwrap();
    Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(place.join("config"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        processes::kill(&self.mark);
    }
}
