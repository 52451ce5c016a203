//! `fargate-replay` at a terminal, as an engineer on call uses it: a pseudo-terminal, keys, and the
//! screen.

use std::{
    io::{Read as _, Write as _},
    process::Child,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use pty_process::{Size, blocking::Pty};
use unicode_width::UnicodeWidthStr as _;

use crate::{
    cluster::Cluster,
    eventually,
    replay_act::{id, replay},
    runner::Job,
};

/// A command at a terminal.
pub struct Terminal {
    pty: Arc<Pty>,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    child: Child,
}

impl Terminal {
    pub fn open(job: &Job, columns: u16, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let command = pty_process::blocking::Command::new(env!("CARGO_BIN_EXE_fargate-replay"))
            .env_clear()
            .envs(job.environment.iter().map(|(k, v)| (k, v)))
            .env("TERM", "xterm-256color")
            .envs(variables.iter().copied())
            .arg("--config")
            .arg(&job.config)
            .args(arguments);
        Self::run(command, columns)
    }

    /// Runs a command at a terminal that is so wide.
    pub fn run(command: pty_process::blocking::Command, columns: u16) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(24, columns)).unwrap();
        let child = command.spawn(pts).unwrap();
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Vec::new())));
        let (from, to) = (Arc::clone(&pty), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The terminal's end, with its last process, is an error (EIO).
            while let Ok(read) = (&*from).read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { pty, seen, reader, child }
    }

    pub fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    /// Returns the output so far, without colours.
    pub fn text(&self) -> String {
        anstream::adapter::strip_str(&String::from_utf8_lossy(&self.seen.lock().unwrap()))
            .to_string()
    }

    pub fn shows(&self, what: &str) {
        eventually(&format!("{what:?} is seen"), || self.text().contains(what));
    }

    /// Waits for the command. Returns its exit code and all output.
    pub fn end(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        drop(self.pty);
        self.reader.join().unwrap();
        let seen = self.seen.lock().unwrap().clone();
        (code, String::from_utf8_lossy(&seen).into_owned())
    }
}

fn seen(job: &Job, columns: u16, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let (code, seen) = Terminal::open(job, columns, variables, arguments).end();
    assert_eq!(code, 0, "{arguments:?}: {seen}");
    seen
}

/// Asserts that there is output and that every line fits.
fn assert_fits(seen: &str, columns: usize) {
    let text = anstream::adapter::strip_str(seen).to_string();
    assert!(!text.trim().is_empty());
    for line in text.lines() {
        assert!(
            line.trim_end_matches('\r').width() <= columns,
            "{} columns of {columns}: {line}",
            line.width()
        );
    }
}

/// Returns a job whose driver was killed while its script still runs.
fn stuck(cluster: &Cluster) -> Job {
    let job = Job::on(cluster);
    job.prepare();
    let script = job
        .script(
            "echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; echo the rest; exit 7",
        )
        .display()
        .to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    job
}

fn looks(job: &Job) {
    let id = id(job);
    for arguments in [
        &["list", "--stuck"][..],
        &["show", &id],
        &["step", &id],
        &["list", "--archived"],
        &["stats"],
    ] {
        for columns in [44, 80, 140] {
            assert_fits(&seen(job, columns, &[], arguments), usize::from(columns));
        }
        // Colours need a terminal that supports them and a user who has not disabled them.
        for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
            assert!(
                !seen(job, 80, variables, arguments).contains('\u{1b}'),
                "{arguments:?}, {variables:?}"
            );
        }
        let piped = replay(job).args(arguments).output().unwrap();
        assert!(piped.status.success() && !piped.stdout.contains(&0x1b), "{piped:?}");
    }
    let listed = seen(job, 80, &[], &["list", "--stuck"]);
    assert!(
        listed.contains('\u{1b}') && listed.contains(&id) && listed.contains("driver-gone"),
        "{listed}"
    );
    let shown = seen(job, 80, &[], &["show", &id]);
    assert!(
        shown.contains('\u{1b}')
            && shown.contains("driver-gone")
            && shown.contains("fargate-replay resume"),
        "{shown}"
    );
    let forced = replay(job).args(["--color", "always", "show", &id]).output().unwrap();
    assert!(forced.stdout.contains(&0x1b), "--color always");
    // A closed pipe is not an error.
    let mut cut = replay(job)
        .args(["step", &id])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(cut.stdout.take());
    let cut = cut.wait_with_output().unwrap();
    assert_eq!((cut.status.code(), String::from_utf8_lossy(&cut.stderr).as_ref()), (Some(0), ""));
}

fn walks(job: &Job) {
    let walk = Terminal::open(job, 80, &[], &["step", "--interactive", &id(job)]);
    walk.shows("q > ");
    let of = walk
        .text()
        .lines()
        .next()
        .unwrap()
        .trim_start()
        .split(['/', ' '])
        .nth(1)
        .unwrap()
        .to_owned();
    let count = |number: usize| walk.text().matches(&format!("{number}/{of} ")).count();
    assert_eq!((count(1), count(2)), (1, 0), "{}", walk.text());
    walk.press("\r");
    walk.shows(&format!("2/{of} "));
    walk.press("n\r");
    walk.shows(&format!("3/{of} "));
    walk.press("p\r");
    eventually("it goes back", || count(2) == 2);
    walk.press(&format!("{of}\r"));
    walk.shows(&format!("{of}/{of} "));
    walk.press("\r");
    walk.shows("that was the last of");
    walk.press("q\r");
    let (code, seen) = walk.end();
    assert!(code == 0 && seen.contains("today's states are the recorded ones"), "{code}: {seen}");
}

fn opens_shells(job: &Job, by_ecs_exec: bool) {
    let before = job.snapshot();
    let shell = Terminal::open(job, 80, &[], &["shell", &id(job)]);
    shell.press("echo beside-$((20 + 22)); stty size\r");
    shell.shows("beside-42");
    shell.shows("24 80");
    shell.pty.resize(Size::new(30, 100)).unwrap();
    // The window's size and the keys are sent separately.
    eventually("the new size is there", || {
        shell.press("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(100));
        shell.text().contains("30 100")
    });
    // Ctrl-C goes to the program in the container, at any moment of the line.
    shell.press("echo sleeps-$((0 + 3)); sleep 600\r");
    shell.shows("sleeps-3");
    shell.press("\u{3}");
    shell.press("echo still-$((1 + 1))\r");
    shell.shows("still-2");
    shell.press("exit 5\r");
    let (code, seen) = shell.end();
    assert_eq!(code, 5, "{seen}");

    // Leaving ends the session: a container has few slots.
    for _ in 0..4 {
        let hanging = Terminal::open(job, 80, &[], &["shell", &id(job)]);
        hanging.press("echo here-$((2 + 2))\r");
        hanging.shows("here-4");
        hanging.press("\r~.");
        assert_eq!(hanging.end().0, 0);
    }
    for _ in 0..4 {
        let command = replay(job).args(["shell", &id(job), "--", "exit 9"]).output().unwrap();
        assert_eq!(command.status.code(), Some(9), "{command:?}");
    }
    let command = Terminal::open(
        job,
        80,
        &[],
        &["shell", &id(job), "--", "echo works-$((3 + 3)); sleep 600"],
    );
    command.shows("works-6");
    command.press("\u{3}");
    let (code, seen) = command.end();
    // OpenSSH does not pass it on.
    let expected = if by_ecs_exec { (143, "was asked to end") } else { (130, "left the command") };
    assert!(code == expected.0 && seen.contains(expected.1), "{code}: {seen}");
    assert_eq!(job.snapshot(), before, "looking leaves no trace");
}

fn unsticks(job: &Job, has_terminals: bool) {
    let beside =
        replay(job).args(["shell", &id(job), "--", "touch \"$TMPDIR/go\""]).output().unwrap();
    assert!(beside.status.success(), "{beside:?}");
    let (code, seen) = Terminal::open(job, 80, &[], &["resume", &id(job)]).end();
    assert!(code == 7 && seen.contains("the rest"), "{code}: {seen}");
    let visitor = has_terminals.then(|| Terminal::open(job, 80, &[], &["shell", &id(job)]));
    if let Some(visitor) = &visitor {
        visitor.press("echo there-$((3 + 1))\r");
        visitor.shows("there-4");
    }
    let (code, seen) =
        Terminal::open(job, 80, &[], &["stop", &id(job), "--reason", "by hand"]).end();
    assert!(code == 0 && seen.contains("over and archived"), "{code}: {seen}");
    if let Some(visitor) = visitor {
        let (code, seen) = visitor.end();
        assert!(code != 0, "the container went away under the shell: {seen}");
    }
}

#[test]
fn on_call_on_the_local_cluster() {
    let cluster = Cluster::local();
    let job = stuck(&cluster);
    looks(&job);
    walks(&job);
    // Its containers have no terminals: the message says so and names the alternative.
    let (code, said) = Terminal::open(&job, 80, &[], &["shell", &id(&job)]).end();
    assert!(code == 255 && said.contains("refuses a terminal"), "{code}: {said}");
    unsticks(&job, false);
    cluster.assert_nothing_is_left(1);
}

/// On clusters whose containers have terminals.
fn on_call(cluster: &Cluster) {
    let job = stuck(cluster);
    looks(&job);
    walks(&job);
    opens_shells(&job, cluster.is_by_ecs_exec());
    unsticks(&job, true);
    cluster.assert_nothing_is_left(1);
}

#[test]
fn on_call_by_ecs_exec() {
    on_call(&Cluster::local_by_ecs_exec());
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn on_call_on_moto_and_openssh() {
    on_call(&Cluster::moto());
}
