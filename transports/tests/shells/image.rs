//! The job's container: a shell that runs the protocol's bootstrap, beside the container of `Local`.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use states::SharedVolume;
use transports::delivery;

use crate::local::{Local, program};

/// What the job's image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    /// This machine's /bin/sh and `sleep`.
    Sh,
    /// With `setsid`.
    ShAndSetsid,
    /// bash, called as `sh`.
    Bash,
    /// busybox's shell.
    Busybox,
    /// A root file system with busybox alone, and a user of its own. It has namespaces for
    /// processes, users and mounts.
    Unprivileged,
    /// The same, and its main process is process 1.
    ProcessOne,
}

/// A running container.
pub(crate) struct JobContainer {
    main: Child,
    /// In the environment of all its processes.
    mark: String,
    pub(crate) volume: SharedVolume,
}

/// The user of [`Image::Unprivileged`].
const USER: u32 = 1000;

impl JobContainer {
    /// Starts it, beside the container of `local`.
    pub(crate) fn start(local: &Local, image: Image) -> Self {
        let volume = volume(local);
        let arguments = delivery::job_container_command(&volume.run);
        let mut command = image.command(local, &volume);
        let mark = local.path("image").display().to_string();
        command
            .args(&arguments[1..])
            .env_clear()
            .env("FROM_IMAGE", "it's kept")
            .env("MARK", &mark)
            .stdin(Stdio::null())
            .process_group(0);
        if matches!(image, Image::Unprivileged | Image::ProcessOne) {
            // Its shells are not found through PATH, as some entry points empty it.
            command.env("PATH", "/least").uid(USER).gid(USER);
        } else {
            command.env("PATH", &mark).current_dir(&mark);
        }
        Self { main: command.spawn().unwrap(), mark, volume }
    }

    /// Sends SIGTERM to the shell that the bootstrap runs in.
    pub(crate) fn terminate(&self) {
        let mut shells = self
            .processes(|arguments| contains(arguments, "until [") && !contains(arguments, "bwrap"));
        shells.sort_unstable();
        assert!(kill("TERM", &shells[0].to_string()), "its main process runs");
    }

    /// Whether the bootstrap waits for the loop.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.processes(|arguments| contains(arguments, "sleep\0")).is_empty()
    }

    /// Its processes with such arguments.
    fn processes(&self, fits: impl Fn(&[u8]) -> bool) -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let entry = entry.ok()?;
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            (contains(&read("environ"), &self.mark) && fits(&read("cmdline")))
                .then(|| entry.file_name().to_str()?.parse().ok())?
        });
        processes.collect()
    }

    /// Ends all processes of its main process's group, as the end of a container does.
    pub(crate) fn end(&mut self) {
        // It may have ended already.
        let _ = kill("KILL", &format!("-{}", self.main.id()));
        let _ = self.main.wait();
    }

    /// Whether its main process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.main.try_wait().unwrap().is_some()
    }
}

impl Drop for JobContainer {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill(signal: &str, target: &str) -> bool {
    let script = "kill \"-$1\" \"$2\" 2>/dev/null";
    let killed = Command::new("/bin/sh").args(["-c", script, "kill", signal, target]).status();
    killed.unwrap().success()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// The volume of both containers.
pub(crate) fn volume(local: &Local) -> SharedVolume {
    let part = |name: &str| {
        let path = local.path("volume").join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    SharedVolume { run: part("fargate"), builds: part("builds"), cache: part("cache") }
}

impl Image {
    fn command(self, local: &Local, volume: &SharedVolume) -> Command {
        let bin = local.path("image");
        fs::create_dir(&bin).unwrap();
        let link = |to: PathBuf, name: &str| symlink(to, bin.join(name)).unwrap();
        match self {
            Self::Sh => link("/bin/sh".into(), "sh"),
            Self::ShAndSetsid => {
                link("/bin/sh".into(), "sh");
                link(program("setsid"), "setsid");
            }
            Self::Bash => link(program("bash"), "sh"),
            Self::Busybox => link(program("busybox"), "sh"),
            Self::Unprivileged => return unprivileged(&bin, volume, false),
            Self::ProcessOne => return unprivileged(&bin, volume, true),
        }
        link(program("sleep"), "sleep");
        Command::new(bin.join("sh"))
    }
}

/// Makes a root file system and returns the command that enters it.
fn unprivileged(root: &Path, volume: &SharedVolume, as_process_one: bool) -> Command {
    let shared = Path::new(&volume.run).parent().unwrap();
    for directory in ["bin", "least", "proc", "dev", "lib", "lib64", "etc", "work"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::create_dir_all(root.join(shared.strip_prefix("/").unwrap())).unwrap();
    fs::copy(program("busybox"), root.join("bin/busybox")).unwrap();
    let applets = Command::new("busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    for applet in ["sh", "sleep"] {
        symlink("/bin/busybox", root.join("least").join(applet)).unwrap();
    }
    // The temporary directory is its owner's only.
    for directory in [root, root.parent().unwrap()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program("bwrap"));
    if as_process_one {
        command.arg("--as-pid-1");
    }
    command
        .args(["--unshare-user", "--unshare-pid", "--die-with-parent", "--ro-bind"])
        .args([root, Path::new("/")])
        .args(["--ro-bind-try", "/lib", "/lib", "--ro-bind-try", "/lib64", "/lib64"])
        .args(["--proc", "/proc", "--dev", "/dev", "--bind"])
        .args([shared, shared])
        .args(["--chdir", "/work", "--", "/least/sh"]);
    command
}
