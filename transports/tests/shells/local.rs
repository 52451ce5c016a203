//! Runs the delivery protocol's commands in a local shell, in one of several environments.

use std::{
    collections::BTreeMap,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use states::{HostIdentity, RunError, RunOrder, ShellFacts, Target, TaskArn};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::mpsc,
};
use transports::delivery::{
    self, Channel, Chunk, Exec, Followed, Session,
    terminal::{Boot, TerminalShell},
};

use crate::pty::Pty;

/// The programs in a test's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// This machine's /bin/sh and its tools.
    System,
    /// bash, called as `sh` (which makes it POSIX), and this machine's tools.
    Bash,
    /// busybox's shell and this machine's tools.
    BusyboxShell,
    /// busybox and nothing else.
    BusyboxAlone,
    /// Only the documented tools of the protocol, from busybox: no GNU `tail`, and `setsid` only in
    /// terminals.
    Least,
}

/// The tools that the documentation of `delivery` lists.
const NEEDED: [&str; 10] = ["sh", "cat", "dd", "mkdir", "mv", "rm", "sleep", "tail", "tr", "wc"];
/// The tools that `delivery::terminal` adds.
const NEEDED_FOR_TERMINALS: [&str; 4] = ["stty", "head", "base64", "setsid"];

/// How commands are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Each has an input and two outputs of its own, as over SSH.
    Pipes,
    /// All over one terminal, as over ECS Exec.
    Terminal,
    /// As by pipes, and runs are started by a standby, as in the driver's service.
    Standby,
}

/// A "container": a home directory, a PATH, a shell.
pub(crate) struct Local {
    root: TempDir,
    surroundings: Surroundings,
    by: By,
    path: String,
    sh: PathBuf,
    terminals: tokio::sync::Mutex<Vec<Arc<TerminalShell<Pty>>>>,
    /// The connection with the standby.
    session: tokio::sync::Mutex<Option<Session>>,
    /// Runs before every command, like a login shell's start-up files.
    pub(crate) startup: String,
    /// Environment beside PATH, HOME and TMPDIR.
    pub(crate) env: BTreeMap<String, String>,
    /// Words of the commands that are replaced by others.
    pub(crate) replaced: Vec<(&'static str, &'static str)>,
    /// Process groups of the commands that were started, in order.
    pub(crate) groups: Arc<Mutex<Vec<u32>>>,
}

impl Local {
    pub(crate) fn new(surroundings: Surroundings, by: By) -> Self {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for directory in ["home", "tmp"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        let system = "/usr/local/bin:/usr/bin:/bin".to_owned();
        let (path, sh) = match surroundings {
            Surroundings::System => (system, PathBuf::from("/bin/sh")),
            Surroundings::Bash => {
                symlink(program("bash"), bin.join("sh")).unwrap();
                (system, bin.join("sh"))
            }
            Surroundings::BusyboxShell => {
                symlink(program("busybox"), bin.join("sh")).unwrap();
                (system, bin.join("sh"))
            }
            Surroundings::BusyboxAlone => {
                let list = std::process::Command::new("busybox").arg("--list").output().unwrap();
                for applet in String::from_utf8(list.stdout)
                    .unwrap()
                    .lines()
                    .filter(|name| *name != "busybox")
                {
                    symlink(program("busybox"), bin.join(applet)).unwrap();
                }
                (bin.display().to_string(), bin.join("sh"))
            }
            Surroundings::Least => {
                let more = if by == By::Terminal { &NEEDED_FOR_TERMINALS[..] } else { &[] };
                for applet in NEEDED.iter().chain(more) {
                    symlink(program("busybox"), bin.join(applet)).unwrap();
                }
                (bin.display().to_string(), bin.join("sh"))
            }
        };
        Self {
            root,
            surroundings,
            by,
            path,
            sh,
            terminals: tokio::sync::Mutex::default(),
            session: tokio::sync::Mutex::default(),
            startup: String::new(),
            env: BTreeMap::new(),
            replaced: Vec::new(),
            groups: Arc::default(),
        }
    }

    pub(crate) fn surroundings(&self) -> Surroundings {
        self.surroundings
    }

    pub(crate) fn by(&self) -> By {
        self.by
    }

    /// Adds a program that is found before others of its name.
    pub(crate) fn add_program(&mut self, name: &str, script: &str) {
        let directory = self.path("first");
        std::fs::create_dir_all(&directory).unwrap();
        // Written by another process: one that a thread of this process starts meanwhile would have
        // the file open, and it could not be executed.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh"])
            .arg(format!("#!{}\n{script}\n", program("sh").display()))
            .arg(directory.join(name))
            .status();
        assert!(written.unwrap().success());
        self.env.insert("PATH".to_owned(), format!("{}:{}", directory.display(), self.path));
    }

    pub(crate) fn has_program(&self, name: &str) -> bool {
        self.path.split(':').any(|directory| Path::new(directory).join(name).exists())
    }

    pub(crate) fn has_setsid(&self) -> bool {
        self.surroundings != Surroundings::Least || self.by == By::Terminal
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the home directory, in which commands start.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }
}

#[async_trait]
impl Exec for Local {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        match self.by {
            By::Pipes | By::Standby => self.pipes().exec(command, input).await,
            By::Terminal => self.by_terminal(command, input).await,
        }
    }
}

impl Local {
    fn environment(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        for (name, value) in [
            ("PATH", self.path.clone()),
            ("HOME", self.home().display().to_string()),
            ("TMPDIR", self.path("tmp").display().to_string()),
            ("SHELL", self.sh.display().to_string()),
        ] {
            env.entry(name.to_owned()).or_insert(value);
        }
        env
    }

    /// As `exec`, but the connection is lost after this much input.
    pub(crate) async fn exec_and_lose(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        match self.by {
            By::Pipes | By::Standby => self.pipes().run(&command, input, false),
            By::Terminal => self.exec(command, input).await,
        }
    }

    /// Returns what runs commands by pipes, as the container is now.
    pub(crate) fn pipes(&self) -> Pipes {
        Pipes {
            sh: self.sh.clone(),
            startup: self.startup.clone(),
            replaced: self.replaced.clone(),
            environment: self.environment(),
            home: self.home(),
            groups: Arc::clone(&self.groups),
        }
    }

    /// Starts a run: by a standby if there is to be one.
    pub(crate) async fn start(
        &self,
        facts: &ShellFacts,
        order: &RunOrder,
        script: Bytes,
    ) -> Result<Followed, RunError> {
        if self.by != By::Standby {
            return delivery::start(self, facts, order, script).await;
        }
        let mut session = self.session.lock().await;
        if session.is_none() {
            *session = Some(connect(self.pipes(), facts).await);
        }
        let session = session.as_mut().unwrap();
        session.stand_by().await;
        states::Session::start(session, order, script).await
    }

    /// Uses the last terminal. Opens a new one if there is none, if its container has changed, or
    /// if it is in use.
    async fn by_terminal(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        let mut terminals = self.terminals.lock().await;
        if let Some(shell) = terminals.last()
            && self.startup.is_empty()
            && let Ok(channel) = shell.exec(command.clone(), input.clone()).await
        {
            return Ok(channel);
        }
        let (boot, pty) = self.boot()?;
        let shell = Arc::new(TerminalShell::boot(pty, &boot).await.map_err(|e| e.to_string())?);
        terminals.push(Arc::clone(&shell));
        drop(terminals);
        shell.exec(command, input).await
    }

    /// Opens a terminal with a session's command.
    pub(crate) fn boot(&self) -> Result<(Boot, Pty), String> {
        let mut boot = Boot::new();
        boot.helper = adapted(&boot.helper, &self.sh, &self.replaced);
        let line = boot.command();
        let inner =
            line.strip_prefix("/bin/sh -c '").and_then(|line| line.strip_suffix('\'')).unwrap();
        let (pty, leader) =
            Pty::spawn(&self.sh, &format!("{}{inner}", self.startup), self.environment())?;
        self.groups.lock().unwrap().push(leader);
        Ok((boot, pty))
    }
}

/// Connects to a container whose facts are known.
pub(crate) async fn connect(exec: impl Exec + 'static, facts: &ShellFacts) -> Session {
    let target = Target {
        transport: "pipes".into(),
        destination: states::Destination::Task,
        cluster: "ci".to_owned(),
        task: TaskArn::new("arn:aws:ecs:eu-west-1:111122223333:task/ci/1").unwrap(),
        container: "ci-coordinator".to_owned(),
        key: "/none".into(),
        pinned: None,
        host_proof: None,
        facts: Some(facts.clone()),
        shared: None,
        connect_timeout: Duration::ZERO,
        attempt_timeout: Duration::ZERO,
    };
    Session::open(exec, HostIdentity("local".to_owned()), &target).await.unwrap().0
}

/// Runs commands by pipes.
#[derive(Clone)]
pub(crate) struct Pipes {
    sh: PathBuf,
    startup: String,
    replaced: Vec<(&'static str, &'static str)>,
    environment: BTreeMap<String, String>,
    home: PathBuf,
    groups: Arc<Mutex<Vec<u32>>>,
}

#[async_trait]
impl Exec for Pipes {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        self.run(&command, input, command.follows())
    }

    fn sends_later(&self) -> bool {
        true
    }
}

impl Pipes {
    fn run(
        &self,
        command: &delivery::Command,
        input: Bytes,
        stays_open: bool,
    ) -> Result<Box<dyn Channel>, String> {
        let command =
            format!("{}{}", self.startup, adapted(&command.line(), &self.sh, &self.replaced));
        let mut child = Command::new(&self.sh)
            .args(["-c", &command])
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.home)
            // As a server does. It also lets tests kill the whole group.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        self.groups.lock().unwrap().push(child.id().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        let (later, mut sent) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            // A command may end without reading its input.
            let _ = stdin.write_all(&input).await;
            if stays_open {
                // It ends when the channel is dropped.
                while let Some(input) = sent.recv().await {
                    let _ = stdin.write_all(&input).await;
                }
            }
        });
        Ok(Box::new(PipesChannel {
            out: child.stdout.take(),
            err: child.stderr.take(),
            child,
            input: later,
        }))
    }
}

/// Adapts a command of the protocol to a container's shell and replacements.
fn adapted(text: &str, sh: &Path, replaced: &[(&str, &str)]) -> String {
    let text = text.replace("/bin/sh", sh.to_str().unwrap());
    replaced.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

struct PipesChannel {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    /// Keeps the command's input open.
    input: mpsc::Sender<Bytes>,
}

#[async_trait]
impl Channel for PipesChannel {
    async fn send(&mut self, input: Bytes) -> Result<(), String> {
        self.input.send(input).await.map_err(|e| e.to_string())
    }

    async fn next(&mut self) -> Chunk {
        let (mut out, mut err) =
            (BytesMut::with_capacity(32 * 1024), BytesMut::with_capacity(1024));
        loop {
            tokio::select! {
                n = read(&mut self.out, &mut out), if self.out.is_some() => match n {
                    0 => self.out = None,
                    _ => return Chunk::Out(out.freeze()),
                },
                n = read(&mut self.err, &mut err), if self.err.is_some() => match n {
                    0 => self.err = None,
                    _ => return Chunk::Err(err.freeze()),
                },
                status = self.child.wait(), if self.out.is_none() && self.err.is_none() => {
                    return Chunk::Ended { status: status.unwrap().code().and_then(|code| u32::try_from(code).ok()) };
                }
            }
        }
    }
}

async fn read(from: &mut Option<impl tokio::io::AsyncRead + Unpin>, to: &mut BytesMut) -> usize {
    match from {
        Some(pipe) => pipe.read_buf(to).await.unwrap(),
        None => std::future::pending().await,
    }
}

/// Finds a program on this machine.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    path.split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("no {name} in {path}"))
}
