//! A script runs in the container with the job's image, which the transport does not reach.

use std::{os::unix::fs::symlink, path::Path, time::Duration};

use bytes::Bytes;
use states::{
    ConnectCause, ConnectErrorKind, RunContainer, RunError, RunOrder, SharedVolume, ShellFacts,
    Signal,
};
use transports::delivery::{self, Followed};

use crate::{
    image::{Image, JobContainer, volume},
    local::{By, Local, Surroundings},
    silence,
    steps::{
        Outcome, follow, follow_measured, has_accounting, kill, noise, read, runs, text, until,
    },
};

/// For scripts that need the machine's tools: the image's PATH has `sh` and `sleep`.
const TOOLS: &str = "PATH=/usr/bin:/bin\n";

fn order(name: &str) -> RunOrder {
    RunOrder { container: RunContainer::Job, ..crate::steps::order(name) }
}

/// Both containers, after first contact.
async fn up(local: &Local, image: Image) -> (JobContainer, ShellFacts) {
    let container = JobContainer::start(local, image);
    let facts = delivery::probe(local, Some(&container.volume)).await;
    (container, facts.unwrap_or_else(|e| panic!("{e}: {:?}", e.cause)))
}

async fn start(
    local: &Local,
    facts: &ShellFacts,
    name: &str,
    script: impl Into<Vec<u8>>,
) -> Followed {
    delivery::start(local, facts, &order(name), Bytes::from(script.into())).await.unwrap()
}

async fn attach(local: &Local, facts: &ShellFacts, name: &str, from: usize) -> Followed {
    delivery::attach(local, facts, &order(name), from as u64).await.unwrap()
}

async fn run(local: &Local, facts: &ShellFacts, name: &str, script: impl Into<Vec<u8>>) -> Outcome {
    follow(start(local, facts, name, script).await).await.unwrap()
}

fn directory(facts: &ShellFacts, name: &str) -> std::path::PathBuf {
    Path::new(&facts.job.as_ref().unwrap().run_dir).join(name)
}

/// A file of the volume that scripts can write.
fn shared(container: &JobContainer, name: &str) -> std::path::PathBuf {
    Path::new(&container.volume.builds).join(name)
}

pub(crate) async fn facts_are_correct(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let job = facts.job.unwrap();
    assert!(job.run_dir.starts_with(local.path("volume/fargate").to_str().unwrap()), "{job:?}");
    assert_eq!(job.has_setsid, image == Image::ShAndSetsid);
    assert_eq!(job.has_bash, image != Image::Unprivileged && Path::new("/bin/bash").exists());
    // The coordinator's own directory is not shared.
    assert!(facts.run_dir.starts_with(local.path("tmp").to_str().unwrap()), "{}", facts.run_dir);
}

pub(crate) async fn exit_codes(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    for wanted in [0, 1, 42, 127, 255] {
        let (_, code, _) =
            run(&local, &facts, &format!("code-{wanted}"), format!("exit {wanted}")).await;
        assert_eq!(code, wanted);
    }
}

/// By the loop, which runs there. The image with a user has no `/sys`.
pub(crate) async fn what_the_container_has_used_is_reported(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let (_, used) = follow_measured(start(&local, &facts, "1", "exit 0").await).await.unwrap();
    let expected = has_accounting() && image != Image::Unprivileged;
    assert_eq!(used.is_some(), expected, "{used:?}");
}

pub(crate) async fn death_by_signal(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("INT", 2), ("PIPE", 13), ("HUP", 1)] {
        let script = format!("echo before; kill -{signal} $$; echo after");
        let (output, code, _) = run(&local, &facts, signal, script).await;
        assert_eq!((text(&output), code), ("before\n", 128 + number), "{signal}");
    }
}

pub(crate) async fn output_is_exact_and_in_order(local: Local, image: Image) {
    let (container, facts) = up(&local, image).await;
    let script = "i=0; while [ $i -lt 200 ]; do echo \"out $i\"; echo \"err $i\" >&2; i=$((i+1)); done; printf 'no newline at the end'";
    let (output, code, total) = run(&local, &facts, "1", script).await;
    let expected: String = (0..200).map(|i| format!("out {i}\nerr {i}\n")).collect::<String>()
        + "no newline at the end";
    assert_eq!(text(&output), expected);
    assert_eq!((code, total), (0, expected.len() as u64));
    let bytes: Vec<u8> = (0..=255).chain(noise(3_000_000)).chain([0, 0, b'\n', 0xff]).collect();
    let data = shared(&container, "data");
    std::fs::write(&data, &bytes).unwrap();
    let script = format!("{TOOLS}cat '{}'", data.display());
    let (output, _, total) = run(&local, &facts, "2", script).await;
    assert!(output == bytes, "{} bytes, {total} reported", output.len());
}

pub(crate) async fn five_megabyte_script(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let line = format!(": {}\n", "x".repeat(1000));
    let script = TOOLS.to_owned() + &line.repeat(5 * 1024) + "cat \"$0\"";
    let (output, code, _) = run(&local, &facts, "large", script.as_str()).await;
    assert!(output == script.as_bytes(), "{} bytes of {}", output.len(), script.len());
    assert_eq!(code, 0);
}

pub(crate) async fn the_environment_is_the_images(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let script = "pwd; echo \"$FROM_IMAGE\"; echo $#; if read -r line; then echo \"$line\"; fi\n\
                  for fd in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$fd ] || echo \"open: $fd\"; done; echo end\n";
    let (output, ..) = run(&local, &facts, "1", format!("#!/bin/sh\n{script}")).await;
    let place = if image == Image::Unprivileged {
        "/work".to_owned()
    } else {
        local.path("image").display().to_string()
    };
    // A shell has the script itself open.
    let lines: Vec<_> = text(&output).lines().filter(|line| !line.starts_with("open:")).collect();
    assert_eq!(lines, [place.as_str(), "it's kept", "0", "end"]);
    let script =
        "[ -p /proc/$$/fd/3 ] || [ -p /proc/$$/fd/7 ] || [ -p /proc/$$/fd/9 ] || echo none";
    assert_eq!(text(&run(&local, &facts, "2", script).await.0), "none\n", "a FIFO is open");
}

/// gitlab-runner's scripts request bash by `env`, whatever the image has.
pub(crate) async fn interpreters(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let has_bash = facts.job.as_ref().unwrap().has_bash;
    let (output, code, _) =
        run(&local, &facts, "env", "#!/usr/bin/env bash\necho \"${BASH_VERSION:+bash}\"; exit 3\n")
            .await;
    assert_eq!((text(&output).trim(), code), (if has_bash { "bash" } else { "" }, 3));
    let (_, code, _) = run(&local, &facts, "argument", "#!/bin/sh -e\nfalse\nexit 0\n").await;
    assert_eq!(code, 1, "-e of the first line counts");
    for _ in 0..2 {
        let missing =
            follow(start(&local, &facts, "missing", "#!/opt/none/pwsh -x\necho ran\n").await).await;
        assert!(
            matches!(&missing, Err(RunError::NotStarted(why)) if why.contains("/opt/none/pwsh")),
            "{missing:?}"
        );
    }
}

pub(crate) async fn a_run_is_resumed_at_an_offset(local: Local, image: Image) {
    let (container, facts) = up(&local, image).await;
    let bytes = noise(2_000_000);
    let (data, go) = (shared(&container, "data"), shared(&container, "go"));
    std::fs::write(&data, &bytes).unwrap();
    let script = format!(
        "{TOOLS}cat '{0}'; until [ -e '{1}' ]; do sleep 0.01; done; cat '{0}'; exit 6",
        data.display(),
        go.display()
    );
    let mut output = read(&mut start(&local, &facts, "cut", script).await, 100_000).await;
    // A terminal follows one run at a time, so the first follower ends.
    let more = read(&mut attach(&local, &facts, "cut", output.len()).await, 1).await;
    output.extend(more);
    std::fs::write(&go, "").unwrap();
    let (rest, code, total) =
        follow(attach(&local, &facts, "cut", output.len()).await).await.unwrap();
    output.extend(rest);
    assert!(output == [&bytes[..], &bytes[..]].concat(), "{} bytes", output.len());
    assert_eq!((code, total), (6, 4_000_000));
    let beyond = follow(attach(&local, &facts, "cut", 4_000_001).await).await;
    assert!(matches!(beyond, Err(RunError::Unknown(_))), "{beyond:?}");
    let never = follow(attach(&local, &facts, "never", 0).await).await;
    assert!(matches!(never, Err(RunError::Unknown(_))), "{never:?}");
}

pub(crate) async fn a_script_runs_once(local: Local, image: Image) {
    let (container, facts) = up(&local, image).await;
    let executions = shared(&container, "executions");
    let script = format!("echo once >>'{}'; echo output; sleep 0.3; exit 4", executions.display());
    let (first, second) = tokio::join!(
        run(&local, &facts, "same", script.as_str()),
        run(&local, &facts, "same", script.as_str())
    );
    let third = run(&local, &facts, "same", script.as_str()).await;
    assert_eq!(first, (b"output\n".to_vec(), 4, 7));
    assert_eq!((&first, &first), (&second, &third));
    assert_eq!(std::fs::read_to_string(executions).unwrap(), "once\n");
}

/// The supervisor was killed after it had placed the script and before it gave the order.
pub(crate) async fn an_order_that_was_not_given_is_given_again(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let mut dying = local;
    // A terminal that is open already would not get the replacement.
    dying.startup = ": ; ".to_owned();
    dying.replaced = vec![("give_order start", "kill -9 \"$$\"")];
    let lost = follow(start(&dying, &facts, "run", "echo ran; exit 2").await).await;
    assert!(matches!(lost, Err(RunError::ConnectionLost(_))), "{lost:?}");
    dying.replaced.clear();
    assert!(directory(&facts, "run/order").exists());
    let attached = follow(attach(&dying, &facts, "run", 0).await).await;
    assert_eq!(attached, Ok((b"ran\n".to_vec(), 2, 4)));
}

/// The same, and then the stage is cancelled: the order may still come from another supervisor.
pub(crate) async fn a_script_that_was_not_started_is_cancelled(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let mut dying = local;
    dying.startup = ": ; ".to_owned();
    dying.replaced = vec![("give_order start", "kill -9 \"$$\"")];
    let lost = follow(start(&dying, &facts, "run", "echo ran").await).await;
    assert!(matches!(lost, Err(RunError::ConnectionLost(_))), "{lost:?}");
    dying.replaced.clear();
    delivery::signal(&dying, &facts, &order("run"), Signal::Term).await.unwrap();
    for _ in 0..2 {
        let refused = follow(attach(&dying, &facts, "run", 0).await).await;
        let Err(RunError::NotStarted(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("cancelled before it was started"), "{why}");
    }
    let next = follow(start(&dying, &facts, "next", "echo next").await).await;
    assert_eq!(next, Ok((b"next\n".to_vec(), 0, 5)));
}

pub(crate) async fn term_reaches_every_process(local: Local, image: Image) {
    signalled(local, image, Signal::Term, 15).await;
}

pub(crate) async fn kill_reaches_every_process(local: Local, image: Image) {
    signalled(local, image, Signal::Kill, 9).await;
}

/// A script with a child, a grandchild, and an orphan.
async fn signalled(local: Local, image: Image, signal: Signal, number: i32) {
    let (_container, facts) = up(&local, image).await;
    let script = "#!/bin/sh\nsh -c 'sleep 1000 & sh -c \"sleep 1000 & wait\" & wait' &\n\
                  (sleep 1000 &)\necho ready\nwait\n";
    let mut run = start(&local, &facts, "group", script).await;
    assert_eq!(text(&read(&mut run, 6).await), "ready\n");
    let spool = directory(&facts, "group/out");
    until("all of them write to the spool", || writers(&spool).len() >= 6).await;
    delivery::signal(&local, &facts, &order("group"), signal).await.unwrap();
    drop(run);
    let ended = follow(attach(&local, &facts, "group", 6).await).await;
    assert_eq!(ended.map(|(_, code, _)| code), Ok(128 + number), "{image:?}");
    until("every process of the script ends", || writers(&spool).is_empty()).await;
}

/// The processes that have a file open as their output.
fn writers(file: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(spool) = std::fs::metadata(file) else { return Vec::new() };
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().into_string().ok()?;
        let output = std::fs::metadata(format!("/proc/{pid}/fd/1")).ok()?;
        (output.ino() == spool.ino() && output.dev() == spool.dev() && runs(&pid)).then_some(pid)
    });
    processes.collect()
}

pub(crate) async fn signals_before_and_after(local: Local, image: Image) {
    let (container, facts) = up(&local, image).await;
    let executions = shared(&container, "executions");
    let script = format!("echo ran >>'{}'", executions.display());
    let unknown = delivery::signal(&local, &facts, &order("late"), Signal::Term).await;
    assert!(matches!(unknown, Err(RunError::Unknown(_))), "{unknown:?}");
    let late = tokio::time::timeout(
        Duration::from_secs(30),
        follow(start(&local, &facts, "late", script.as_str()).await),
    );
    assert!(late.await.expect("it is refused").is_err());
    assert!(!executions.exists(), "it ran after all");
    run(&local, &facts, "next", script.as_str()).await;
    assert_eq!(std::fs::read_to_string(&executions).unwrap(), "ran\n");
    delivery::signal(&local, &facts, &order("next"), Signal::Term).await.unwrap();
}

pub(crate) async fn background_process_does_not_hold_the_run(local: Local, image: Image) {
    let (container, facts) = up(&local, image).await;
    let go = shared(&container, "go");
    let script = format!(
        "(until [ -e '{}' ]; do sleep 0.01; done; echo late) & echo early; exit 2",
        go.display()
    );
    assert_eq!(run(&local, &facts, "run", script).await, (b"early\n".to_vec(), 2, 6));
    std::fs::write(go, "").unwrap();
    let spool = directory(&facts, "run/out");
    until("the late line", || std::fs::metadata(&spool).unwrap().len() == 11).await;
    let (output, code, total) = follow(attach(&local, &facts, "run", 0).await).await.unwrap();
    assert_eq!((code, total), (2, output.len() as u64));
}

pub(crate) async fn forgotten_runs_are_removed(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    run(&local, &facts, "first", "echo 1").await;
    assert!(directory(&facts, "first").is_dir());
    // The next run is the coordinator's.
    let next =
        RunOrder { forget: Some(crate::steps::run_id("first")), ..crate::steps::order("second") };
    let second = delivery::start(&local, &facts, &next, Bytes::from_static(b"echo 2")).await;
    assert_eq!(follow(second.unwrap()).await, Ok((b"2\n".to_vec(), 0, 2)));
    assert!(!directory(&facts, "first").exists());
    assert!(!directory(&facts, "second").exists(), "it is not shared");
}

pub(crate) async fn the_end_of_the_container_ends_the_run(local: Local, image: Image) {
    let (mut container, facts) = up(&local, image).await;
    let mut run = start(&local, &facts, "run", "echo one; sleep 1000").await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    let left = writers(&directory(&facts, "run/out"));
    container.end();
    let lost = tokio::time::timeout(Duration::from_secs(10), follow(run)).await;
    let lost = lost.expect("it is noticed at once");
    assert!(
        matches!(&lost, Err(RunError::NoStatus(why)) if why.contains("main process")),
        "{lost:?}"
    );
    let lost = follow(attach(&local, &facts, "run", 0).await).await;
    assert!(matches!(lost, Err(RunError::NoStatus(_))), "{lost:?}");
    // No loop takes it.
    let next = tokio::time::timeout(
        Duration::from_secs(10),
        follow(start(&local, &facts, "next", "echo ran").await),
    );
    let next = next.await.expect("it is noticed at once");
    assert!(
        matches!(&next, Err(RunError::NotStarted(why)) if why.contains("main process")),
        "{next:?}"
    );
    // In a container, the kernel ends these.
    for process in left.iter().filter(|process| runs(process)) {
        kill("KILL", process);
    }
}

pub(crate) async fn a_silent_script_costs_nothing(mut local: Local, image: Image) {
    let naps = silence::record_naps(&mut local);
    let (container, facts) = up(&local, image).await;
    let go = shared(&container, "go");
    let made = std::process::Command::new("mkfifo").args(["-m", "666"]).arg(&go).status().unwrap();
    assert!(made.success());
    let script = format!("echo one; read -r line <'{}'; echo two; exit 3", go.display());
    let mut run = start(&local, &facts, "run", script).await;
    assert_eq!(text(&read(&mut run, 4).await), "one\n");
    if silence::announces(&local, &facts) {
        silence::rests(&naps).await;
    }
    // The supervisor goes with its connection.
    drop(run);
    if local.by() == By::Pipes {
        let group = *local.groups.lock().unwrap().last().unwrap();
        until("no process is left", || silence::of_group(group).is_empty()).await;
    }
    let mut run = attach(&local, &facts, "run", 3).await;
    assert_eq!(text(&read(&mut run, 1).await), "\n");
    std::fs::OpenOptions::new().write(true).open(&go).unwrap();
    drop(run);
    let ended = follow(attach(&local, &facts, "run", 4).await).await;
    assert_eq!(ended, Ok((b"two\n".to_vec(), 3, 8)));
}

/// The job may be root in its container, and replaces files by links to the coordinator's.
pub(crate) async fn links_of_the_job_are_not_followed(local: Local, image: Image) {
    let (_container, facts) = up(&local, image).await;
    let secret = local.path("secret");
    std::fs::write(&secret, ". 0 5 0 .\nsecret of the coordinator\n").unwrap();
    for name in ["out", "exit", "pid", "err", "alive", "script", "order", "used"] {
        let run_name = format!("replaced-{name}");
        run(&local, &facts, &run_name, "echo mine; exit 5").await;
        let file = directory(&facts, &run_name).join(name);
        std::fs::remove_file(&file).unwrap();
        symlink(&secret, &file).unwrap();
        let attached = follow(attach(&local, &facts, &run_name, 0).await).await;
        assert!(!format!("{attached:?}").contains("secret of"), "{name}: {attached:?}");
        if let Ok((output, code, _)) = &attached {
            assert_eq!((text(output), *code), ("mine\n", 5), "{name}");
        }
        delivery::signal(&local, &facts, &order(&run_name), Signal::Term).await.unwrap();
    }
    // While a run is followed, its descriptors stay at the files that were checked.
    let mut followed = start(&local, &facts, "live", "echo one; sleep 0.5; echo two; exit 3").await;
    assert_eq!(text(&read(&mut followed, 4).await), "one\n");
    let spool = directory(&facts, "live/out");
    std::fs::rename(&spool, directory(&facts, "live/moved")).unwrap();
    symlink(&secret, &spool).unwrap();
    let ended = follow(attach(&local, &facts, "live", 4).await).await;
    assert!(!format!("{ended:?}").contains("secret of"), "{ended:?}");
    // What is put where the next run's files go stops that run, and nothing else.
    let outside = local.path("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, directory(&facts, "planted")).unwrap();
    let planted = follow(start(&local, &facts, "planted", "echo ran").await).await;
    assert!(planted.is_err(), "{planted:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was written there");
    // The orders' FIFO, too.
    let orders = directory(&facts, "orders");
    std::fs::remove_file(&orders).unwrap();
    symlink(&secret, &orders).unwrap();
    delivery::signal(&local, &facts, &order("live"), Signal::Kill).await.unwrap();
    let unchanged = std::fs::read_to_string(&secret).unwrap();
    assert_eq!(unchanged, ". 0 5 0 .\nsecret of the coordinator\n");
}

/// An entry point that does not run its arguments, or a container that is still starting.
pub(crate) async fn a_container_that_is_not_up(local: Local, image: Image) {
    let shared = volume(&local);
    let refused = delivery::probe(&local, Some(&shared)).await.unwrap_err();
    assert_eq!(refused.kind, ConnectErrorKind::JobContainerNotUp, "{refused:?}");
    let left: Vec<_> = std::fs::read_dir(local.path("tmp"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // It comes up later.
    let (_container, facts) = up(&local, image).await;
    assert_eq!(run(&local, &facts, "1", "exit 3").await.1, 3);
}

/// What the coordinator lacks is named, and nothing is left there.
#[tokio::test]
#[ignore = "needs busybox"]
async fn an_unsuitable_coordinator_is_explained() {
    let least = Local::new(Surroundings::Least, By::Pipes);
    let refused = delivery::probe(&least, Some(&volume(&least))).await.unwrap_err();
    assert_eq!(refused.cause, ConnectCause::NoJobPrograms, "{refused:?}");
    assert!(refused.message.contains("chmod mkfifo readlink rmdir"), "{refused:?}");
    let local = Local::new(Surroundings::BusyboxAlone, By::Pipes);
    // In /proc, not even root can create a directory.
    let unusable = SharedVolume { run: "/proc/fargate".to_owned(), ..volume(&local) };
    let refused = delivery::probe(&local, Some(&unusable)).await.unwrap_err();
    assert_eq!(refused.cause, ConnectCause::SharedVolume, "{refused:?}");
    assert!(refused.message.contains("/proc/fargate"), "{refused:?}");
    for local in [least, local] {
        assert_eq!(std::fs::read_dir(local.path("tmp")).unwrap().count(), 0);
    }
}

pub(crate) async fn the_main_process_ends_on_sigterm(local: Local, image: Image) {
    let mut waiting = JobContainer::start(&local, image);
    until("it waits for the loop", || waiting.is_waiting()).await;
    waiting.terminate();
    until("it ends while it waits", || waiting.has_ended()).await;
    std::fs::remove_dir_all(local.path("image")).unwrap();
    let (mut container, facts) = up(&local, image).await;
    let run = start(&local, &facts, "run", "sleep 0.2").await;
    container.terminate();
    until("it ends while a script runs", || container.has_ended()).await;
    drop(run);
}

/// The kernel gives process 1 no signal that it does not handle.
#[tokio::test]
#[ignore = "needs root, bubblewrap and busybox"]
async fn process_one_ends_on_sigterm() {
    let image = Image::ProcessOne;
    exit_codes(Local::new(Surroundings::System, By::Pipes), image).await;
    the_main_process_ends_on_sigterm(Local::new(Surroundings::System, By::Pipes), image).await;
}
