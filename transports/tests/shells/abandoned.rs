//! A start that is abandoned while its script is being sent over a terminal, as by a cancel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use states::{RunError, ShellFacts, Signal};
use tokio::{sync::Notify, time::timeout};
use transports::{
    Terminal,
    delivery::{self, Exec as _, terminal::TerminalShell},
};

use crate::{
    local::{By, Local, Surroundings},
    pty::Pty,
    steps::{follow, order},
};

/// The end of the script, which is not delivered.
const HELD: usize = 60;

/// A terminal that does not accept the script's last piece.
#[derive(Clone)]
struct Slow(Arc<Line>);

struct Line {
    pty: Pty,
    holds: AtomicBool,
    held: Notify,
}

#[async_trait]
impl Terminal for Slow {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        if bytes.len() == HELD && self.0.holds.load(Ordering::Relaxed) {
            self.0.held.notify_one();
            std::future::pending::<()>().await;
        }
        self.0.pty.write(bytes).await
    }

    async fn read(&self) -> Result<Option<Bytes>, String> {
        self.0.pty.read().await
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        self.0.pty.resize(columns, rows).await
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn input_after_an_abandoned_start_is_not_part_of_the_script() {
    let local = Local::new(Surroundings::System, By::Terminal);
    let (boot, pty) = local.boot().unwrap();
    let terminal = Slow(Arc::new(Line { pty, holds: AtomicBool::new(true), held: Notify::new() }));
    let shell = TerminalShell::boot(terminal.clone(), &boot).await.unwrap();
    let facts: ShellFacts = delivery::probe(&shell, None).await.unwrap();
    // One piece of 16 KiB and one of sixty bytes, which are fewer than any verb has: a comment.
    let mut script = "echo ran >>executions\n".to_owned();
    while script.len() < 16 * 1024 + HELD {
        script.push('#');
    }
    let order_of_it = order("run");
    let start = delivery::start(&shell, &facts, &order_of_it, Bytes::from(script.clone()));
    tokio::select! {
        _ = start => panic!("it cannot have started"),
        () = terminal.0.held.notified() => {}
    }
    terminal.0.holds.store(false, Ordering::Relaxed);
    // At once: a cancel does not wait for a time-out.
    let signalled = timeout(
        Duration::from_secs(4),
        delivery::signal(&shell, &facts, &order("run"), Signal::Term),
    )
    .await;
    assert!(matches!(signalled, Ok(Err(RunError::ConnectionLost(_)))), "{signalled:?}");
    // Closing does not write into the script either.
    Box::new(shell).close().await;
    let uploads = || {
        std::fs::read_dir(&facts.run_dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let arrived =
        uploads().iter().map(|path| std::fs::read(path).unwrap_or_default()).collect::<Vec<_>>();
    assert!(
        arrived.iter().all(|bytes| script.as_bytes().starts_with(bytes)),
        "something else than the script arrived"
    );
    assert!(!local.home().join("executions").exists());
    // A new session, as the driver opens it.
    let (boot, pty) = local.boot().unwrap();
    let shell = TerminalShell::boot(pty, &boot).await.unwrap();
    let unknown = delivery::signal(&shell, &facts, &order("run"), Signal::Term).await;
    assert!(matches!(unknown, Err(RunError::Unknown(_))), "{unknown:?}");
    let again = follow(
        delivery::start(&shell, &facts, &order("again"), Bytes::from_static(b"echo again; exit 3"))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(again, Ok((b"again\n".to_vec(), 3, 6)));
    assert!(!local.home().join("executions").exists());
}

/// One run after the other over one terminal: the end of the first may still be in transit after
/// its channel was dropped.
#[tokio::test]
async fn a_run_starts_at_once_after_another_has_ended() {
    let local = Local::new(Surroundings::System, By::Terminal);
    let (boot, pty) = local.boot().unwrap();
    let shell = TerminalShell::boot(pty, &boot).await.unwrap();
    let facts = delivery::probe(&shell, None).await.unwrap();
    for number in 0..20 {
        let started = delivery::start(
            &shell,
            &facts,
            &order(&format!("run{number}")),
            Bytes::from_static(b"exit 4"),
        )
        .await;
        assert_eq!(
            follow(started.unwrap_or_else(|e| panic!("{number}: {e}"))).await,
            Ok((Vec::new(), 4, 0))
        );
    }
}

/// A driver was killed when its script had just arrived, and the next one ends the session. Its
/// program gets SIGKILL, and the terminal's other foreground processes get SIGHUP.
#[tokio::test]
async fn the_end_of_a_session_does_not_stop_a_starting_script() {
    let mut local = Local::new(Surroundings::System, By::Terminal);
    // The time from the creation of the run's directory until its process is recorded.
    local.replaced = vec![(
        "printf \"%80s\\n\" \"\" >\"$_run/pid\"",
        "sleep 1; printf \"%80s\\n\" \"\" >\"$_run/pid\"",
    )];
    let (boot, pty) = local.boot().unwrap();
    let leader = local.groups.lock().unwrap()[0];
    let shell = TerminalShell::boot(pty, &boot).await.unwrap();
    let facts = delivery::probe(&shell, None).await.unwrap();
    let script = Bytes::from_static(b"echo ran >>executions; sleep 1; echo said; exit 3");
    let _followed = delivery::start(&shell, &facts, &order("run"), script.clone()).await.unwrap();
    let directory = std::path::Path::new(&facts.run_dir).join("run");
    let made = async {
        while !directory.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), made).await.expect("it is being started");
    let killed = std::process::Command::new("/bin/sh")
        .args(["-c", &format!("kill -9 {leader}")])
        .status()
        .unwrap();
    assert!(killed.success());
    local.replaced.clear();
    let (boot, pty) = local.boot().unwrap();
    let shell = TerminalShell::boot(pty, &boot).await.unwrap();
    let again = follow(delivery::start(&shell, &facts, &order("run"), script).await.unwrap()).await;
    assert_eq!(again, Ok((b"said\n".to_vec(), 3, 5)));
    assert_eq!(std::fs::read_to_string(local.home().join("executions")).unwrap(), "ran\n");
}
