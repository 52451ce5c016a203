//! Failures in the container are explained.

use async_trait::async_trait;
use bytes::Bytes;
use states::{ConnectErrorKind, RunError, ShellFacts};
use transports::delivery::{self, Channel, Exec};

use crate::{
    local::{Local, Surroundings},
    steps::{attach, facts, follow, order, run, start, text},
};

pub(crate) async fn unknown_runs(local: Local) {
    let facts = facts(&local).await;
    let never = follow(attach(&local, &facts, "never", 0).await).await;
    assert!(matches!(&never, Err(RunError::Unknown(why)) if why.contains("never")), "{never:?}");
    run(&local, &facts, "short", "echo 123").await;
    let short = follow(attach(&local, &facts, "short", 5).await).await;
    assert!(
        matches!(&short, Err(RunError::Unknown(why)) if why.contains("(4 bytes)")),
        "{short:?}"
    );
}

pub(crate) async fn missing_program_is_named(local: Local) {
    let facts = facts(&local).await;
    for (name, line) in
        [("path", "#!/opt/none/pwsh -x\n"), ("env", "#!/usr/bin/env no-such-program\n")]
    {
        let run = follow(start(&local, &facts, name, format!("{line}echo ran\n")).await).await;
        let program = if name == "path" { "/opt/none/pwsh" } else { "no-such-program" };
        assert!(matches!(&run, Err(RunError::NotStarted(why)) if why.contains(program)), "{run:?}");
        assert_eq!(std::fs::read_dir(&facts.run_dir).unwrap().count(), 0, "nothing is left");
    }
}

/// gitlab-runner's scripts request bash by `env`, even if the image has only another shell.
pub(crate) async fn missing_shell_is_replaced(local: Local) {
    let facts = facts(&local).await;
    for line in ["#!/usr/bin/env bash", "#!/usr/local/no/such/bash"] {
        let (output, code, _) =
            run(&local, &facts, &format!("{}", line.len()), format!("{line}\necho ran; exit 3\n"))
                .await;
        assert_eq!((text(&output), code), ("ran\n", 3));
    }
}

pub(crate) async fn no_writable_directory(mut local: Local) {
    // In /proc, not even root can create a directory.
    for variable in ["TMPDIR", "HOME"] {
        local.env.insert(variable.to_owned(), "/proc".to_owned());
    }
    local.replaced = vec![("/tmp /var/tmp", "/proc"), ("/dev/shm", "/proc")];
    let refused = delivery::probe(&local, None).await.unwrap_err();
    assert_eq!(refused.kind, ConnectErrorKind::NoShell);
    assert!(
        refused.message.contains("/proc/.fargate-")
            && refused.cause == states::ConnectCause::NoDirectory,
        "{refused:?}"
    );

    let facts = ShellFacts {
        run_dir: "/proc/fargate-x".to_owned(),
        follows_with_tail: true,
        has_setsid: true,
        job: None,
    };
    let refused = follow(start(&local, &facts, "run", "echo ran").await).await;
    assert!(
        matches!(&refused, Err(RunError::NotStarted(why)) if why.contains("/proc/fargate-x")),
        "{refused:?}"
    );
}

/// A limit on file sizes fails like a full disk, in `write`.
pub(crate) async fn full_disk_at_the_start(mut local: Local) {
    let facts = facts(&local).await;
    local.startup = "trap '' XFSZ; ulimit -f 1; ".to_owned();
    let refused = follow(start(&local, &facts, "run", ": x\n".repeat(5000)).await).await;
    assert!(
        matches!(&refused, Err(RunError::NotStarted(why)) if why.contains("too large")),
        "{refused:?}"
    );
    assert_eq!(std::fs::read_dir(&facts.run_dir).unwrap().count(), 0, "nothing is left");
    local.startup.clear();
    assert_eq!(run(&local, &facts, "run", "echo later").await, (b"later\n".to_vec(), 0, 6));
}

pub(crate) async fn run_directory_that_vanished(local: Local) {
    let facts = facts(&local).await;
    std::fs::remove_dir_all(&facts.run_dir).unwrap();
    let gone = follow(attach(&local, &facts, "run", 0).await).await;
    assert!(matches!(gone, Err(RunError::Unknown(_))), "{gone:?}");
    assert_eq!(run(&local, &facts, "run", "echo again").await.0, b"again\n");
}

/// Loses half of the input, like a cut connection.
struct Cut<'a>(&'a Local);

#[async_trait]
impl Exec for Cut<'_> {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        self.0.exec_and_lose(command, input.slice(..input.len() / 2)).await
    }
}

pub(crate) async fn cut_upload(local: Local) {
    let facts = facts(&local).await;
    let script = Bytes::from("echo x >>executions\n".repeat(2));
    let cut =
        follow(delivery::start(&Cut(&local), &facts, &order("run"), script.clone()).await.unwrap())
            .await;
    assert!(matches!(cut, Err(RunError::ConnectionLost(_))), "{cut:?}");
    assert!(!local.home().join("executions").exists(), "half a script must not run");
    run(&local, &facts, "run", script).await;
    assert_eq!(std::fs::read_to_string(local.home().join("executions")).unwrap(), "x\nx\n");
}

pub(crate) async fn run_directory_that_vanishes(local: Local) {
    let facts = facts(&local).await;
    let outcome =
        follow(start(&local, &facts, "run", "rm -rf \"${0%/*}\"; echo after; exit 5").await).await;
    assert!(
        matches!(&outcome, Err(RunError::NoStatus(why)) if why.contains("was deleted while the script ran")),
        "{outcome:?}"
    );
}

/// Alters one byte of the input.
struct Altering<'a>(&'a Local);

#[async_trait]
impl Exec for Altering<'_> {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        let mut altered = input.to_vec();
        if let Some(last) = altered.last_mut() {
            *last = b'#';
        }
        self.0.exec(command, altered.into()).await
    }
}

/// The right length is not enough if the container can compute a digest.
pub(crate) async fn altered_upload(local: Local) {
    let facts = facts(&local).await;
    let script = Bytes::from_static(b"echo x >>executions; exit 1");
    let altered = follow(
        delivery::start(&Altering(&local), &facts, &order("run"), script.clone()).await.unwrap(),
    )
    .await;
    if local.surroundings() == Surroundings::Least {
        assert!(altered.is_ok(), "without sha256sum, scripts run all the same: {altered:?}");
        return;
    }
    assert!(
        matches!(&altered, Err(RunError::ConnectionLost(why)) if why.contains("not the script")),
        "{altered:?}"
    );
    assert!(!local.home().join("executions").exists(), "another script must not run");
    assert_eq!(std::fs::read_dir(&facts.run_dir).unwrap().count(), 0, "nothing is left");
    assert_eq!(run(&local, &facts, "run", script).await.1, 1);
}
