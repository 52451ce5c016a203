//! Starts a container's first process in namespaces of its own.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::{
        fd::OwnedFd,
        unix::{fs::fchown, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::unix::pipe,
    process::{Child, ChildStderr, ChildStdout, Command},
    task::JoinHandle,
};

use super::{HOST_PATH, log::Log, process::Process, root};
use crate::{
    definitions::ContainerDefinition,
    images::{Image, tool_path},
};

/// What is to be started.
pub(super) struct Plan<'a> {
    pub(super) container: &'a ContainerDefinition,
    pub(super) image: &'a Image,
    pub(super) process: &'a Process,
    /// The task's directory.
    pub(super) directory: PathBuf,
    /// The path of the task's PID namespace.
    pub(super) namespace: String,
}

/// A container that has started.
pub(super) struct Started {
    /// The host's ID of its first process.
    pub(super) init: i32,
    child: Child,
    log: JoinHandle<()>,
    /// Kept open, so that nothing that starts the container meets a closed pipe.
    _pipes: (BufReader<ChildStdout>, ChildStderr),
}

impl Started {
    /// Waits for its end, and for the end of its output. Returns the exit code.
    pub(super) async fn ended(mut self) -> i32 {
        let status = self.child.wait().await;
        // All its processes are gone, so nothing writes any more.
        let _ = self.log.await;
        status.map_or(255, |status| {
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        })
    }
}

impl Plan<'_> {
    /// Starts it, and waits until its command is executed.
    pub(super) async fn start(&self, address: Ipv4Addr, log: Arc<Log>) -> Result<Started, String> {
        let command = self.command()?;
        let layer = self.prepare(address, &command).map_err(|e| format!("its files: {e}"))?;
        let words = self.words(&layer)?;
        let failed = |e: io::Error| format!("a process: {e}");
        let (reader, writer) = io::pipe().map_err(failed)?;
        // As with Docker, so that the user can open /dev/stdout.
        fchown(&writer, Some(self.process.user.uid), Some(self.process.user.gid))
            .map_err(failed)?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        let mut child = Command::new(tool_path("nsenter")?)
            .args(words)
            .env_clear()
            .env("PATH", HOST_PATH)
            .current_dir("/")
            .process_group(0)
            .stdin(OwnedFd::from(writer))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let log = tokio::spawn(async move { log.read(reader).await });
        let (Some(output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("a process without pipes".to_owned());
        };
        let mut output = BufReader::new(output);
        let mut init = None;
        loop {
            let mut line = String::new();
            let size = output.read_line(&mut line).await.map_err(failed)?;
            match line.trim_end().split_once(' ') {
                Some(("pid", pid)) => init = pid.parse().ok(),
                _ if line == "run\n" => break,
                _ if size == 0 => {
                    let mut why = String::new();
                    errors.read_to_string(&mut why).await.map_err(failed)?;
                    return Err(format!("its root file system: {}", why.trim()));
                }
                _ => {}
            }
        }
        let init = init.ok_or("a first process without an ID")?;
        Ok(Started { init, child, log, _pipes: (output, errors) })
    }

    /// Makes the container's own files. Returns the directory for its mounts.
    fn prepare(&self, address: Ipv4Addr, command: &str) -> io::Result<PathBuf> {
        let own = self.directory.join("containers").join(&self.container.name);
        let layer = own.join("layer");
        fs::create_dir_all(&layer)?;
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        fs::write(
            own.join("hosts"),
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{host}\n"),
        )?;
        let resolv = fs::read("/etc/resolv.conf").unwrap_or_default();
        fs::write(own.join("resolv.conf"), resolv)?;
        // The task's directory is for its owner alone.
        fs::write(own.join("command"), command)?;
        Ok(layer)
    }

    /// Returns the command line after `nsenter`.
    fn words(&self, layer: &Path) -> Result<Vec<String>, String> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("{} is no UTF-8", path.display()))
        };
        let (container, process) = (self.container, self.process);
        let on_host = self.image.root == Path::new("/");
        let beside = layer.with_file_name("");
        let mode = match (process.words.is_empty(), container.has_init) {
            (true, _) => "idle",
            (false, true) => "init",
            (false, false) => "command",
        };
        let mut words = vec![format!("--pid={}", self.namespace), "--".to_owned()];
        words.push(tool_path("unshare")?);
        words.extend(["--mount", "--propagation=private", "--pid", "--"].map(str::to_owned));
        // A shell waits for the first process: unshare's own `--fork` loses the status of one that
        // was killed.
        words.extend([tool_path("sh")?, "-c".to_owned(), "\"$@\"; exit $?".to_owned()]);
        words.extend(["sh".to_owned(), tool_path("sh")?, "-c".to_owned()]);
        words.extend([include_str!("start.sh").to_owned(), "start.sh".to_owned()]);
        words.extend([
            text(&self.image.root)?,
            text(layer)?,
            text(&beside.join("hosts"))?,
            text(&beside.join("resolv.conf"))?,
            text(&beside.join("command"))?,
            mode.to_owned(),
            if container.has_read_only_root { "readonly" } else { "" }.to_owned(),
        ]);
        let resolved = |path: &str| {
            let path = root::resolve(&self.image.root, Path::new(path))
                .ok_or_else(|| format!("{path}: too many levels of symbolic links"))?;
            text(&path)
        };
        for mount in &container.mounts {
            let source = self.directory.join("volumes").join(&mount.volume);
            let access = if mount.is_read_only { "ro" } else { "rw" };
            words.extend([text(&source)?, resolved(&mount.path)?, access.to_owned()]);
        }
        if !on_host {
            let directory = resolved(&process.directory)?;
            words.extend(["directory".to_owned(), directory, String::new()]);
        }
        Ok(words)
    }

    /// Returns the shell's command that sets the words to execute. They are not in a command line,
    /// which every user of the host can read: the environment has passwords.
    fn command(&self) -> Result<String, String> {
        let process = self.process;
        let mut words = vec![tool_path("env")?];
        words.extend(["-i", "--default-signal", "--"].map(str::to_owned));
        words.extend(process.environment.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend([
            tool_path("unshare")?,
            "--root=.".to_owned(),
            format!("--wd={}", process.directory),
            format!("--setgid={}", process.user.gid),
            format!("--setuid={}", process.user.uid),
            "--".to_owned(),
        ]);
        words.extend(process.words.iter().cloned());
        if words.iter().any(|word| word.contains('\0')) {
            return Err("its command or environment has a NUL character".to_owned());
        }
        let quoted = words.iter().map(|word| format!(" '{}'", word.replace('\'', r"'\''")));
        Ok(format!("set --{}\n", quoted.collect::<String>()))
    }
}
