//! A real OpenSSH server that stands for a task's container.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::processes;

/// A running sshd; it and its sessions end when this is dropped.
pub struct Sshd {
    mark: String,
    server: Child,
    _place: TempDir,
}

impl Sshd {
    /// Starts sshd on the address, for one key. Commands run with `mark` in their environment.
    pub fn start(address: Ipv4Addr, port: u16, public_key: &str, mark: &str) -> Self {
        let place = tempfile::Builder::new().prefix("fargate-sshd-").tempdir().unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path("host")]).status().unwrap();
        assert!(made.success(), "ssh-keygen failed");
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
        let log = fs::File::create(path("log")).unwrap();
        let server =
            Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f", &path("config")]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { mark: mark.to_owned(), server, _place: place }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        processes::kill(&self.mark);
    }
}
