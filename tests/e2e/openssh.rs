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

/// A running sshd; it and its sessions end when this is dropped.
pub struct Sshd {
    mark: String,
    server: Child,
    place: TempDir,
}

impl Sshd {
    /// Starts sshd on the address, for one key. Commands run with `mark` in their environment.
    pub fn start(address: Ipv4Addr, port: u16, public_key: &str, mark: &str) -> Self {
        let place = tempfile::Builder::new().prefix("fargate-sshd-").tempdir().unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        make_host_key(place.path());
        fs::write(path("authorized"), public_key).unwrap();
        fs::create_dir(path("tmp")).unwrap();
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nSetEnv {mark} TMPDIR={}\n\
             PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 200\nPrintMotd no\n",
            path("host"),
            path("authorized"),
            path("tmp"),
        );
        fs::write(path("config"), config).unwrap();
        Self { mark: mark.to_owned(), server: serve(place.path()), place }
    }

    /// Kills the server and its connections. What runs in the container runs on.
    pub fn kill(&mut self) {
        for pid in processes::children_named("sshd", self.server.id()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.server.kill();
        self.server.wait().unwrap();
    }

    /// Starts the server that was killed, with its old host key or with another one, as another container would have.
    pub fn start_again(&mut self, another_key: bool) {
        if another_key {
            fs::remove_file(self.place.path().join("host")).unwrap();
            make_host_key(self.place.path());
        }
        self.server = serve(self.place.path());
    }
}

fn make_host_key(place: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place.join("host")).status().unwrap();
    assert!(made.success(), "ssh-keygen failed");
}

fn serve(place: &Path) -> Child {
    let log = fs::OpenOptions::new().append(true).create(true).open(place.join("log")).unwrap();
    Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(place.join("config")).stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        processes::kill(&self.mark);
    }
}
