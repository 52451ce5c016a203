//! Kills the service, and stages' processes, before and after every frame that they exchange over a
//! whole job. A [`Relay`] counts the frames. Then the job continues as under gitlab-runner: every
//! script runs once, the output has no gap, the verdicts are right, nothing is leaked.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::Child,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crate::{
    cluster::Cluster,
    parametrised::by_every_transport,
    relay::{Moment, Point, Relay},
    runner::{Alone, BUILD_FAILURE, Ended, Job, SYSTEM_FAILURE},
    serve::Service,
};

by_every_transport!(every_frame (not by pipes: "frames are the same by every transport"));

/// Jobs at once whose `prepare` and `cleanup` are interrupted, of each victim.
const AT_ONCE: usize = 3;
/// After so many points that a run does not reach, it has no more: pieces of output may come as one.
const UNREACHED: usize = 4;
const OUTPUT: &str = "first piece\nsecond piece\nthird piece\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Service,
    Stage,
}

use Victim::{Service as TheService, Stage as TheStage};

/// The points so far.
#[derive(Default)]
struct Points {
    /// Victim and stage → the kinds of the frames.
    frames: Mutex<BTreeMap<(Victim, &'static str), String>>,
    jobs: AtomicUsize,
}

/// A job whose service is behind a relay.
struct Relayed<'a> {
    job: Job,
    relay: Relay,
    service: Option<Service>,
    points: &'a Points,
}

/// How a stage ended at a point.
struct Struck {
    ended: Ended,
    /// Whether its process was killed.
    is_dead: bool,
    /// The kind of the frame, if the stage had so many.
    frame: Option<char>,
}

impl<'a> Relayed<'a> {
    fn new(cluster: &Cluster, points: &'a Points) -> Self {
        points.jobs.fetch_add(1, Ordering::Relaxed);
        let job = Job::on(cluster).alone(Alone::HasOwnService);
        let mut relayed = Self { relay: Relay::start(&job), job, service: None, points };
        relayed.restart();
        relayed
    }

    fn restart(&mut self) {
        drop(self.service.take());
        self.service = Some(Service::start(&self.job));
        self.relay.insert();
    }

    /// Runs a stage, of which the victim is killed at the point. `meanwhile` may act on the stage.
    fn stage(
        &self,
        (victim, what): (Victim, &'static str),
        point: Point,
        arguments: &[&str],
        meanwhile: impl FnOnce(&mut Child) -> Vec<u8>,
    ) -> Struck {
        let mut child = self.relay.aim(point, || {
            let child = self.job.spawn(arguments);
            let service = self.service.as_ref().map(|service| service.process.id());
            (if victim == TheStage { child.id() } else { service.unwrap() }, child)
        });
        let begun = meanwhile(&mut child);
        let output = child.wait_with_output().unwrap();
        let is_dead = output.status.signal() == Some(9);
        let frame = self.relay.killed_at();
        if let Some(frame) = frame {
            self.points.frames.lock().unwrap().entry((victim, what)).or_default().push(frame);
        }
        let mut ended = self.job.ended(output);
        ended.stdout.splice(..0, begun);
        Struck { ended, is_dead, frame }
    }
}

fn every_frame(cluster: &Cluster) {
    let (points, began) = (Points::default(), Instant::now());
    thread::scope(|scope| {
        for victim in [TheService, TheStage] {
            let points = &points;
            scope.spawn(move || runs(cluster, victim, points));
            scope.spawn(move || around_runs(cluster, victim, points));
        }
        scope.spawn(|| cancelled_runs(cluster, &points));
    });
    let frames = points.frames.into_inner().unwrap();
    println!(
        "{} points at frames in {} jobs, {:.0} s: {frames:?}",
        frames.values().map(String::len).sum::<usize>(),
        points.jobs.load(Ordering::Relaxed),
        began.elapsed().as_secs_f64()
    );
    // Before and after each, except for those whose number differs.
    for (stage, kinds) in [("prepare", "hHrYBbLD"), ("run", "hHrsYBbOaD"), ("cleanup", "hHrYD")] {
        for victim in [TheService, TheStage] {
            let seen = &frames[&(victim, stage)];
            let least = |kind| if stage == "run" && "OaD".contains(kind) { 1 } else { 2 };
            let missing: Vec<char> =
                kinds.chars().filter(|kind| seen.matches(*kind).count() < least(*kind)).collect();
            assert!(missing.is_empty(), "{victim:?}, {stage}: not at {missing:?}: {seen}");
        }
    }
    assert!(frames[&(TheService, "cancelled run")].matches('c').count() >= 2, "{frames:?}");
    let tasks = cluster.tasks();
    assert!(tasks.iter().all(|task| task.status == "STOPPED" && task.processes == 0), "{tasks:?}");
}

/// The runs of one job, each with its point.
fn runs(cluster: &Cluster, victim: Victim, points: &Points) {
    let mut relayed = Relayed::new(cluster, points);
    relayed.job.prepare();
    let ledger = relayed.job.path("ledger");
    let code = if victim == TheService { 7 } else { 0 };
    let (mut point, mut unreached) = (Point::first(), 0);
    for number in 1.. {
        if victim == TheService && number > 1 {
            relayed.restart();
        }
        let script = relayed.job.script(format!(
            "# {number}: equal scripts that succeeded do not run again\necho run >>'{}'\n\
             printf 'first piece\\nsecond piece\\n'; sleep 0.1; echo 'third piece'; exit {code}\n",
            ledger.display()
        ));
        let arguments = ["run", &script.display().to_string(), "get_sources"];
        let struck = relayed.stage((victim, "run"), point, &arguments, |_| Vec::new());
        let mut ended = struck.ended;
        let mut output = String::from_utf8(ended.stdout.clone()).unwrap();
        let at = format!("{victim:?} at {point:?}, {:?}", struck.frame);
        if struck.is_dead {
            assert!(OUTPUT.starts_with(&output), "{at}: {output}");
            ended = relayed.job.stage(&arguments);
            let again = String::from_utf8(ended.stdout.clone()).unwrap();
            // A process may die between a write and its mark.
            let may_repeat = struck.frame == Some('O') && point.moment == Moment::After;
            if may_repeat && output.len() + again.len() > OUTPUT.len() {
                output.truncate(OUTPUT.len() - again.len().min(OUTPUT.len()));
            }
            output.push_str(&again);
        }
        assert_eq!(output, OUTPUT, "{at}: {ended:#?}\n{}", relayed.job.log());
        assert_eq!(ended.code, if code == 0 { 0 } else { BUILD_FAILURE }, "{at}: {ended:#?}");
        assert_eq!(ended.script_code.unwrap_or("0".to_owned()), code.to_string(), "{at}");
        let runs = fs::read_to_string(&ledger).unwrap().lines().count();
        assert_eq!(runs, number, "{at}: a script runs once");
        unreached += usize::from(struck.frame.is_none());
        if unreached == UNREACHED {
            break;
        }
        point = point.next();
    }
    finish(&relayed.job);
}

/// Runs that are cancelled, of one job. Frames before the cancel are those of any run.
fn cancelled_runs(cluster: &Cluster, points: &Points) {
    const OTHERS: usize = 8;
    let mut relayed = Relayed::new(cluster, points);
    relayed.job.prepare();
    let mut point = Point { frame: OTHERS, moment: Moment::After };
    loop {
        let script = relayed
            .job
            .script("trap 'echo ending; exit 3' TERM; echo begun; while :; do sleep 0.05; done");
        let arguments = ["run", &script.display().to_string(), "build_script"];
        let struck = relayed.stage((TheService, "cancelled run"), point, &arguments, |stage| {
            let mut begun = vec![0; 6];
            stage.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
            Job::cancel(stage);
            begun
        });
        let (at, ended) = (format!("{point:?}, {:?}", struck.frame), struck.ended);
        assert_eq!(ended.code, SYSTEM_FAILURE, "{at}: {ended:#?}");
        assert!(ended.stderr.contains("was cancelled"), "{at}: {ended:#?}");
        // The shell may say that its `sleep` was ended.
        let output = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(output.starts_with("begun\n") && output.ends_with("ending\n"), "{at}: {output}");
        assert_eq!(output.matches("ending").count(), 1, "{at}: {output}");
        relayed.restart();
        if struck.frame.is_none() {
            break;
        }
        point = point.next();
    }
    let after = relayed.job.run("after_script", "echo after");
    assert_eq!((after.code, after.stdout.as_slice()), (0, &b"after\n"[..]), "{after:#?}");
    finish(&relayed.job);
}

/// Jobs whose `prepare` and `cleanup` are interrupted, both at the same point.
fn around_runs(cluster: &Cluster, victim: Victim, points: &Points) {
    let next = Mutex::new(Some(Point::first()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let point = {
                        let mut next = next.lock().unwrap();
                        let Some(point) = *next else { return };
                        *next = Some(point.next());
                        point
                    };
                    if !around_a_run(cluster, victim, point, points) {
                        *next.lock().unwrap() = None;
                    }
                }
            });
        }
    });
}

/// Returns whether one of both stages has the point.
fn around_a_run(cluster: &Cluster, victim: Victim, point: Point, points: &Points) -> bool {
    let mut relayed = Relayed::new(cluster, points);
    let mut was_reached = false;
    for what in ["prepare", "cleanup"] {
        let struck = relayed.stage((victim, what), point, &[what], |_| Vec::new());
        was_reached |= struck.frame.is_some();
        let at = format!("{what}, {victim:?} at {point:?}, {:?}", struck.frame);
        if !struck.is_dead {
            assert_eq!(struck.ended.code, 0, "{at}: {:#?}\n{}", struck.ended, relayed.job.log());
        } else {
            let again = relayed.job.stage(&[what]);
            assert_eq!(again.code, 0, "{at}: {again:#?}\n{}", relayed.job.log());
        }
        if what == "prepare" {
            if victim == TheService && struck.frame.is_some() {
                relayed.restart();
            }
            let run = relayed.job.run("build_script", "echo here");
            assert_eq!((run.code, run.stdout.as_slice()), (0, &b"here\n"[..]), "{at}: {run:#?}");
        }
    }
    finish(&relayed.job);
    was_reached
}

/// Waits for the job's end: it is archived, and none of its files is left.
fn finish(job: &Job) {
    job.cleanup();
    assert_eq!(job.files(""), <[PathBuf; 0]>::default(), "{}", job.log());
    assert!(!job.archived().is_empty(), "{}", job.log());
}
