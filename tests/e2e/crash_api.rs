//! Kills the driver at every call to AWS of every stage. A proxy kills it at three moments: before
//! it forwards the call, when the cluster has answered, and when the driver has just got the
//! answer.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    sync::{Arc, Mutex},
    time::Instant,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    cluster::Cluster,
    crash_job::{Killed, Run, Stage, local},
    http::Message,
    parametrised::by_every_transport,
    runner::{Job, is_through_service},
};

/// When the driver is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    BeforeTheCall,
    BeforeTheAnswer,
    AfterTheAnswer,
}

const MOMENTS: [Moment; 3] =
    [Moment::BeforeTheCall, Moment::BeforeTheAnswer, Moment::AfterTheAnswer];

const STAGES: [Killed; 7] = [
    Killed::PrepareBeside,
    Killed::PrepareCleanedUp,
    Killed::PrepareAgain,
    Killed::Cleanup,
    // Over SSH these make no call: shown, rather than believed.
    Killed::RetriedStage,
    Killed::FailingStage,
    Killed::Config,
];

/// The call at which the driver is killed.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// Each in turn, whatever it is.
    Nth(usize),
    /// How many calls come before it differs: a task is described until it runs.
    First(&'static str),
}

/// Calls that must have been killed, in addition to others of the stage.
fn met_surely(by_ecs_exec: bool) -> Vec<(Killed, &'static str)> {
    let mut met = vec![
        (Killed::PrepareAgain, "RunTask"),
        (Killed::PrepareCleanedUp, "RunTask"),
        (Killed::Cleanup, "StopTask"),
    ];
    if by_ecs_exec {
        met.extend([
            (Killed::PrepareAgain, "ExecuteCommand"),
            (Killed::PrepareCleanedUp, "ExecuteCommand"),
        ]);
        if is_through_service() {
            // They use the session that the service has kept.
            return met;
        }
        // These make both calls at once, in any order.
        met.extend(
            [Killed::RetriedStage, Killed::FailingStage].map(|what| (what, "ExecuteCommand")),
        );
        met.extend(
            [Killed::RetriedStage, Killed::FailingStage].map(|what| (what, "DescribeTasks")),
        );
    }
    met
}

/// The stage to kill.
struct Target {
    process: OwnedFd,
    moment: Moment,
    aim: Aim,
}

/// A proxy between the driver and the API.
#[derive(Default)]
struct Killer {
    target: Mutex<Option<Target>>,
    /// The action of the call at which it killed.
    killed_at: Mutex<Option<String>>,
    /// Connections whose driver was killed: it must not see them end while it dies.
    held: Mutex<Vec<TcpStream>>,
}

impl Killer {
    /// Starts it before `upstream`; tells where it is.
    fn before(upstream: &str) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let killer = Arc::new(Self::default());
        let (shared, upstream) =
            (Arc::clone(&killer), upstream.trim_start_matches("http://").to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                std::thread::spawn(move || shared.pass(stream, &upstream));
            }
        });
        (killer, endpoint)
    }

    fn pass(&self, stream: TcpStream, upstream: &str) -> Option<()> {
        let request = Message::read(&stream)?;
        let action = request
            .header("x-amz-target")
            .and_then(|target| target.split('.').next_back())
            .unwrap_or("EC2");
        let target = self.due(action);
        if let Some(target) = &target {
            *self.killed_at.lock().unwrap() = Some(action.to_owned());
            if target.moment == Moment::BeforeTheCall {
                kill(target);
                self.held.lock().unwrap().push(stream);
                return None;
            }
        }
        let above = TcpStream::connect(upstream).ok()?;
        request.write(&above).ok()?;
        let answer = Message::read(&above)?;
        match target {
            None => answer.write(&stream).ok()?,
            Some(target) if target.moment == Moment::BeforeTheAnswer => kill(&target),
            Some(target) => {
                answer.write(&stream).ok()?;
                kill(&target);
            }
        }
        self.held.lock().unwrap().push(stream);
        None
    }

    /// Returns the target, if this is the call to kill at.
    fn due(&self, action: &str) -> Option<Target> {
        let mut target = self.target.lock().unwrap();
        match &mut target.as_mut()?.aim {
            Aim::Nth(n) if *n > 1 => {
                *n -= 1;
                None
            }
            Aim::First(wanted) if *wanted != action => None,
            _ => target.take(),
        }
    }

    /// Runs a stage and kills it at the chosen call.
    fn stage(&self, job: &Job, arguments: &[&str], aim: Aim, moment: Moment) -> Stage {
        // No call is counted before the process to kill is known.
        let mut target = self.target.lock().unwrap();
        let child = job.spawn(arguments);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        *target =
            Some(Target { process: pidfd_open(pid, PidfdFlags::empty()).unwrap(), moment, aim });
        drop(target);
        let output = child.wait_with_output().unwrap();
        *self.target.lock().unwrap() = None;
        let killed = output.status.signal() == Some(9);
        Stage { ended: job.ended(output), killed, at: format!("call {aim:?}, {moment:?}") }
    }
}

/// The process may have ended by itself, after its last answer.
fn kill(target: &Target) {
    let _ = pidfd_send_signal(&target.process, Signal::KILL);
}

/// The attempts so far.
#[derive(Default)]
struct Tried {
    jobs: usize,
    /// Stage and moment → the calls at which the driver was killed.
    killed: BTreeMap<(Killed, Moment), Vec<String>>,
    /// The stage ended before it was killed: it waited for nothing after this answer.
    was_over: usize,
    failures: Vec<String>,
}

by_every_transport!(
    every_call_to_aws (not by pipes: "pipes make no call to AWS, so the calls are those of SSH")
);

fn every_call_to_aws(cluster: &Cluster) {
    let began = Instant::now();
    let tried = Mutex::new(Tried::default());
    let surely = met_surely(cluster.is_by_ecs_exec());
    std::thread::scope(|scope| {
        for (what, moment) in STAGES.iter().flat_map(|what| MOMENTS.map(|moment| (*what, moment))) {
            let (tried, surely) = (&tried, &surely);
            scope.spawn(move || {
                for n in 1.. {
                    if !one(cluster, what, moment, Aim::Nth(n), tried) {
                        break;
                    }
                }
                for (_, action) in surely.iter().filter(|(of, _)| *of == what) {
                    one(cluster, what, moment, Aim::First(action), tried);
                }
            });
        }
    });
    let tried = tried.into_inner().unwrap();
    println!(
        "{} points at calls to AWS in {} jobs, {:.0} s ({} stages had ended before they were killed): {:?}",
        tried.killed.values().map(Vec::len).sum::<usize>(),
        tried.jobs,
        began.elapsed().as_secs_f64(),
        tried.was_over,
        tried.killed
    );
    assert!(
        tried.failures.is_empty(),
        "{} failures:\n{}",
        tried.failures.len(),
        tried.failures.join("\n")
    );
    let tasks = cluster.tasks();
    assert!(tasks.iter().all(|task| task.status == "STOPPED" && task.processes == 0), "{tasks:?}");
    let calls = |what, moment| tried.killed.get(&(what, moment)).cloned().unwrap_or_default();
    if cluster.is_by_ecs_exec() && !is_through_service() {
        for what in [Killed::RetriedStage, Killed::FailingStage] {
            let made = MOMENTS.map(|moment| calls(what, moment));
            assert!(made.iter().all(|calls| calls.len() >= 2), "{what:?}: {made:?}");
            assert!(
                ["ExecuteCommand", "DescribeTasks"]
                    .iter()
                    .all(|call| made.concat().iter().any(|made| made == call)),
                "{what:?}: {made:?}"
            );
        }
    }
    for (what, action) in surely {
        for moment in MOMENTS {
            let calls = calls(what, moment);
            assert!(
                calls.iter().any(|call| call == action),
                "not killed at {action}: {what:?}, {moment:?}: {calls:?}"
            );
            let describes = what != Killed::Cleanup;
            assert_eq!(
                calls.iter().any(|call| call == "DescribeTasks"),
                describes,
                "{what:?}, {moment:?}: {calls:?}"
            );
        }
    }
}

/// Runs one job. Returns whether its stage made the chosen call.
fn one(cluster: &Cluster, what: Killed, moment: Moment, aim: Aim, tried: &Mutex<Tried>) -> bool {
    let (killer, endpoint) = Killer::before(&local(cluster).endpoint);
    let mut run = Run::new(cluster);
    run.job.set("AWS_ENDPOINT_URL", &endpoint);
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let point =
            run.point(what, false, |job, arguments| killer.stage(job, arguments, aim, moment));
        if what == Killed::PrepareAgain
            && killer.killed_at.lock().unwrap().as_deref() == Some("RunTask")
        {
            assert_eq!(run.tasks("STOPPED"), 1, "the same client token is the same task");
        }
        point
    }));
    let at = killer.killed_at.lock().unwrap().take();
    let mut tried = tried.lock().unwrap();
    tried.jobs += 1;
    match (&at, seen) {
        (Some(action), Ok(point)) if point.killed => {
            tried.killed.entry((what, moment)).or_default().push(action.clone())
        }
        (Some(_), Ok(_)) if moment == Moment::AfterTheAnswer => tried.was_over += 1,
        (Some(action), Ok(_)) => {
            tried.failures.push(format!("{what:?} outlived {action} {aim:?}, {moment:?}"))
        }
        (None, Ok(point)) => assert!(!point.killed, "another process killed it"),
        (_, Err(panic)) => {
            let why =
                panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned());
            tried.failures.push(format!("{what:?}, {at:?} {aim:?}, {moment:?}: {why}"));
        }
    }
    at.is_some()
}
