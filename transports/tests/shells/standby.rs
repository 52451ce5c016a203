//! A standby starts one run after another. Whatever becomes of it, every script runs once, and its
//! output is its own.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use states::{RunError, RunOrder, Session as _};
use transports::delivery::{self, Channel, Chunk, Exec};

use crate::{
    local::{Local, Pipes, connect},
    silence::of_group,
    steps::{attach, facts, follow, is_killed, kill, order, run, run_id, runs, start, text, until},
};

fn commands(local: &Local) -> usize {
    local.groups.lock().unwrap().len()
}

pub(crate) async fn runs_need_no_other_command(local: Local) {
    let facts = facts(&local).await;
    let before = commands(&local);
    for number in 0..5 {
        let script = format!("echo out {number}; echo err >&2; exit {number}");
        let (output, code, _) = run(&local, &facts, &format!("run{number}"), script).await;
        assert_eq!((text(&output), code), (format!("out {number}\nerr\n").as_str(), number));
    }
    assert_eq!(commands(&local), before + 1, "all runs were started by the standby");
}

/// The next run starts while background processes of the one before still write.
pub(crate) async fn a_flood_after_the_end_is_not_the_next_runs_output(local: Local) {
    let facts = facts(&local).await;
    let before = commands(&local);
    // It ends by itself, should the test fail.
    let script =
        "{ i=0; while [ $i -lt 3000000 ]; do echo flood; i=$((i + 1)); done; } & echo $!; exit 4";
    let (output, code, _) = run(&local, &facts, "flood", script).await;
    let flood = text(&output).lines().find(|line| *line != "flood").unwrap().to_owned();
    assert_eq!(code, 4);
    for number in 0..3 {
        let next = run(&local, &facts, &format!("next{number}"), "echo mine").await;
        assert_eq!(next, (b"mine\n".to_vec(), 0, 5));
    }
    assert!(runs(&flood), "it was too short");
    kill("KILL", &flood);
    assert_eq!(commands(&local), before + 1, "the standby went on");
}

pub(crate) async fn a_killed_standby_is_replaced(local: Local) {
    let facts = facts(&local).await;
    for number in 0..3 {
        let name = format!("run{number}");
        assert_eq!(run(&local, &facts, &name, "echo mine").await, (b"mine\n".to_vec(), 0, 5));
        // It may be between two runs, or may have said so and not be there yet.
        for group in
            local.groups.lock().unwrap().iter().filter(|group| !of_group(**group).is_empty())
        {
            // A command that was ending may be gone.
            let is_killed = is_killed("KILL", &format!("-{group}"));
            assert!(is_killed || of_group(*group).is_empty(), "the group {group} lives");
        }
    }
}

/// As `kill -9 -1` of a user that is not root: scripts of the same user see the standby's processes.
pub(crate) async fn a_script_that_kills_every_process(local: Local) {
    let facts = facts(&local).await;
    let home = local.home();
    // Again, for those that were just being started.
    let killer = format!(
        "for again in 1 2 3; do for process in /proc/[0-9]*; do [ \"${{process#/proc/}}\" = $$ ] || \
         ! tr '\\0' '\\n' <$process/environ 2>/dev/null | grep -qx 'HOME={}' || kill -9 ${{process#/proc/}}; done; done; \
         echo ran >>executions",
        home.display()
    );
    let lost = follow(start(&local, &facts, "killer", killer).await).await;
    assert!(
        matches!(lost, Err(RunError::ConnectionLost(_) | RunError::NoStatus(_))),
        "its wrapper and followers are gone: {lost:?}"
    );
    until("the script goes on", || home.join("executions").exists()).await;
    let next = run(&local, &facts, "next", "cat executions").await;
    assert_eq!(next, (b"ran\n".to_vec(), 0, 4));
}

/// A script runs only if the driver has started it, whichever side dies.
pub(crate) async fn what_is_only_sent_ahead_never_runs(local: Local) {
    let facts = facts(&local).await;
    let script = Bytes::from_static(b"echo ran >>executions");
    let has_arrived = || {
        let entries = fs::read_dir(&facts.run_dir).unwrap();
        let scripts = entries.map(|entry| entry.unwrap().path().join("script"));
        scripts.into_iter().any(|path| fs::read(path).is_ok_and(|text| text == script))
    };
    let order = order("run");
    for dies in ["driver", "standby", "neither"] {
        let mut session = connect(local.pipes(), &facts).await;
        session.stand_by().await;
        session.send_ahead(&order, &script);
        until("the script has arrived", has_arrived).await;
        match dies {
            "driver" => drop(session),
            "standby" => {
                let group = *local.groups.lock().unwrap().last().unwrap();
                kill("KILL", &format!("-{group}"));
            }
            // The next stage has another run.
            _ => {
                session.stand_by().await;
                let next = Bytes::from_static(b"echo mine");
                let next = session.start(&crate::steps::order("next"), next).await.unwrap();
                assert_eq!(follow(next).await, Ok((b"mine\n".to_vec(), 0, 5)));
            }
        }
        until("no process is left", || processes(&local) <= if dies == "neither" { 9 } else { 0 })
            .await;
        assert!(!local.home().join("executions").exists(), "{dies}");
        let _ = fs::remove_dir_all(&facts.run_dir);
        fs::create_dir(&facts.run_dir).unwrap();
    }
}

/// A disk that is full for the standby, here by a limit on file sizes.
pub(crate) async fn what_fails_is_started_by_another_command(mut local: Local) {
    let facts = facts(&local).await;
    let startup = "trap '' XFSZ; ulimit -f 1; ".to_owned();
    local.startup.clone_from(&startup);
    let script = format!("echo ran >>executions\n{}", ": x\n".repeat(5000));
    let lost = follow(start(&local, &facts, "run", script.clone()).await).await;
    assert!(matches!(lost, Err(RunError::ConnectionLost(_))), "{lost:?}");
    assert!(!local.home().join("executions").exists());
    // The driver connects again, and that has no standby.
    let refused =
        delivery::start(&local, &facts, &order("run"), Bytes::from(script.clone())).await.unwrap();
    let refused = follow(refused).await;
    assert!(matches!(refused, Err(RunError::NotStarted(_))), "{refused:?}");
    local.startup.clear();
    let again = delivery::start(&local, &facts, &order("run"), Bytes::from(script)).await.unwrap();
    assert_eq!(follow(again).await, Ok((Vec::new(), 0, 0)));
    assert_eq!(fs::read_to_string(local.home().join("executions")).unwrap(), "ran\n");
}

/// A connection whose standby gets only the first bytes of what is sent to it.
struct Cut {
    pipes: Pipes,
    left: Arc<AtomicUsize>,
}

struct CutChannel {
    channel: Option<Box<dyn Channel>>,
    left: Arc<AtomicUsize>,
}

#[async_trait]
impl Exec for Cut {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        let channel = Some(self.pipes.exec(command, input).await?);
        Ok(Box::new(CutChannel { channel, left: Arc::clone(&self.left) }))
    }

    fn sends_later(&self) -> bool {
        true
    }
}

#[async_trait]
impl Channel for CutChannel {
    async fn next(&mut self) -> Chunk {
        match &mut self.channel {
            Some(channel) => channel.next().await,
            None => Chunk::Lost("the connection was cut".to_owned()),
        }
    }

    async fn send(&mut self, mut input: Bytes) -> Result<(), String> {
        let Some(channel) = &mut self.channel else { return Err("it was cut".to_owned()) };
        let left = self.left.load(Ordering::Relaxed);
        let is_cut = left < input.len();
        input.truncate(left);
        self.left.fetch_sub(input.len(), Ordering::Relaxed);
        channel.send(input).await?;
        if is_cut {
            self.channel = None;
        }
        Ok(())
    }
}

/// The connection is cut within the order, within the script, and behind it.
pub(crate) async fn orders_that_are_cut_run_once(local: Local) {
    let facts = facts(&local).await;
    let script = Bytes::from_static(b"run=${0%/script}; echo ran >>\"executions-${run##*/}\"\n");
    for left in (0..600).step_by(29) {
        let name = format!("run{left}");
        let cut = Cut { pipes: local.pipes(), left: Arc::new(AtomicUsize::new(left)) };
        let mut session = connect(cut, &facts).await;
        session.stand_by().await;
        let order = order(&name);
        if left % 2 == 0 {
            session.send_ahead(&order, &script);
        }
        let first = match session.start(&order, script.clone()).await {
            Ok(run) => follow(run).await,
            Err(e) => Err(e),
        };
        // By another connection, as the driver does it.
        let outcome = match first {
            Ok(outcome) => outcome,
            Err(RunError::ConnectionLost(_)) => {
                drop(session);
                follow(delivery::start(&local, &facts, &order, script.clone()).await.unwrap())
                    .await
                    .unwrap_or_else(|e| panic!("{left}: {e:?}"))
            }
            Err(e) => panic!("{left}: {e:?}"),
        };
        assert_eq!(outcome, (Vec::new(), 0, 0), "{left}");
        let executions = fs::read_to_string(local.home().join(format!("executions-{name}")));
        assert_eq!(executions.unwrap(), "ran\n", "{left}");
    }
}

/// Counts the processes of this container, without zombies.
fn processes(local: &Local) -> usize {
    let mark = format!("HOME={}", local.home().display());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let environment = fs::read(entry.ok()?.path().join("environ")).ok()?;
        environment.split(|b| *b == 0).any(|pair| pair == mark.as_bytes()).then_some(())
    });
    processes.count()
}

pub(crate) async fn runs_are_forgotten_and_leave_no_process(local: Local) {
    let facts = facts(&local).await;
    let mut forget = None;
    for number in 0..5 {
        let name = format!("run{number}");
        let order = RunOrder { forget: forget.take(), ..order(&name) };
        let script = Bytes::from_static(b"echo output");
        let outcome = follow(local.start(&facts, &order, script).await.unwrap()).await;
        assert_eq!(outcome, Ok((b"output\n".to_vec(), 0, 7)));
        forget = Some(run_id(&name));
        until("only the last run is left", || {
            let entries = fs::read_dir(&facts.run_dir).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let runs: Vec<_> = names.filter(|name| !name.starts_with("ready.")).collect();
            runs == [name.clone()]
        })
        .await;
    }
    // The standby's own nine, and none of the runs.
    until("no process is left", || processes(&local) <= 9).await;
    // What follows over another connection is not disturbed.
    assert_eq!(follow(attach(&local, &facts, "run4", 0).await).await.unwrap().0, b"output\n");
}
