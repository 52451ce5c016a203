//! gitlab-runner's part: calls the stages of a job one after the other, each in a process that may
//! be killed.

use std::time::Duration;

use bytes::Bytes;
use states::{AnyJob, Goal, Retirement, RunOutcome, Snapshot, StopReason};
use tokio::time::Instant;

use super::{
    plan::{Call, Cleanup, Plan, Stage},
    stages::{self, StageResult, Verdict, verdict},
};
use crate::world::{
    containers::Program,
    fault_plan::Fault,
    manager::{Io, Manager},
};

/// From SIGTERM to SIGKILL.
const KILLED_AFTER: Duration = Duration::from_secs(40);
/// The id of the warm task.
const WARM: &str = "warm-0000000000000001";

/// One call of a stage, as gitlab-runner saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    pub stage: &'static str,
    pub verdict: Verdict,
    pub took: Duration,
}

/// A job being run.
pub struct Job {
    pub manager: Manager,
    pub plan: Plan,
    pub called: Vec<Called>,
    /// The rules that were broken.
    pub wrong: Vec<String>,
}

impl Job {
    pub fn new(manager: Manager, plan: Plan) -> Self {
        Self { manager, plan, called: Vec::new(), wrong: Vec::new() }
    }

    pub fn record(&self, fault: Fault) {
        self.manager.cloud.state.lock().unwrap().faults.record(fault);
    }

    fn claim(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    /// Runs the whole job as gitlab-runner does, and then `cleanup` until the job is over.
    pub async fn run(&mut self) {
        if let Some((call, idle)) = self.plan.warm {
            self.call("warm", call, async |process, io| {
                stages::warm(&process.of_job(WARM), io).await
            })
            .await;
            tokio::time::sleep(idle).await;
        }
        if self.prepare().await {
            self.stages().await;
        }
        for cleanup in self.plan.cleanups.clone() {
            self.cleanups(cleanup).await;
        }
        // Faults end at last. Late effects have happened by then.
        self.manager.cloud.heal();
        if self.plan.reaped {
            self.record(Fault::Reaped);
            let reaped =
                self.end(Call::default(), Goal::End, StopReason::Asked("reaped".to_owned())).await;
            self.note("reap", reaped, Duration::ZERO);
        }
        let last = self.cleanup(Call::default()).await;
        self.claim(is_over(&last), || format!("without faults, cleanup returned {last:?}"));
        if self.plan.warm.is_some() {
            // The pool keeps no tasks any more. The job may have claimed this one.
            let retired = self
                .call("retire", Call::default(), async |process, io| {
                    let reason = StopReason::Retired(Retirement::Surplus);
                    stages::end(&process.of_job(WARM), Goal::End, reason, io).await
                })
                .await
                .0;
            self.claim(is_over(&retired), || {
                format!("without faults, retire returned {retired:?}")
            });
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.look(Call::default()).await;
        let kept = self.manager.snapshot().is_some();
        self.claim(!kept, || {
            "its task has ended, and the next process that looked did not archive it".to_owned()
        });
    }

    /// Runs a stage of another job of the manager.
    async fn look(&mut self, call: Call) -> Verdict {
        self.call("look", call, async |process, _| stages::look(process).await).await.0
    }

    fn note(&mut self, stage: &'static str, verdict: Verdict, took: Duration) {
        self.called.push(Called { stage, verdict, took });
    }

    /// Runs a process, which is killed if its plan says so.
    async fn call(
        &mut self,
        stage: &'static str,
        call: Call,
        act: impl AsyncFnOnce(&Manager, &mut Io) -> StageResult,
    ) -> (Verdict, Io) {
        let process = Manager { crash: std::sync::Arc::default(), ..self.manager.clone() };
        process.crash.set(call.killed_at);
        let mut io = process.io();
        let began = Instant::now();
        io.cancel_at = call.cancelled_after.map(|after| began + after);
        let cancelled_at = io.cancel_at;
        let killed = async {
            match cancelled_at {
                Some(at) => tokio::time::sleep_until(at + KILLED_AFTER).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            () = process.crash.crash() => None,
            () = killed => None,
            result = act(&process, &mut io) => Some(result).filter(|_| !process.crash.has_crashed()),
        };
        let verdict = verdict(result);
        if io.was_cancelled {
            self.record(Fault::Cancelled);
        }
        if verdict == Verdict::Killed {
            self.record(Fault::ProcessKilled);
        }
        self.note(stage, verdict.clone(), began.elapsed());
        (verdict, io)
    }

    async fn prepare(&mut self) -> bool {
        for (number, call) in self.plan.prepares.clone().into_iter().enumerate() {
            if number > 0 {
                self.record(Fault::PrepareRepeated);
            }
            let (verdict, io) = self
                .call("prepare", call, async |process, io| {
                    stages::prepare(process, number, io).await
                })
                .await;
            if verdict == Verdict::Success {
                return true;
            }
            if io.was_cancelled {
                return false;
            }
            if self.plan.cleans_between {
                self.cleanup(Call::default()).await;
            }
        }
        false
    }

    async fn stages(&mut self) {
        let beside = self.plan.cleanup_beside;
        for (number, stage) in self.plan.stages.clone().into_iter().enumerate() {
            let cleanup_after = beside.filter(|(at, _)| *at == number).map(|(_, after)| after);
            let verdict = self.stage(&stage, cleanup_after).await;
            match verdict {
                Verdict::Success => {}
                // gitlab-runner calls after_script even if the script failed, was cancelled, or its
                // process was lost.
                Verdict::Exit(_) | Verdict::Cancelled | Verdict::Killed
                    if stage.name == "build_script" => {}
                _ => return,
            }
        }
    }

    /// Runs a stage, as often as gitlab-runner tries it.
    async fn stage(&mut self, stage: &Stage, cleanup_after: Option<Duration>) -> Verdict {
        let program = Program::of(&stage.script);
        let mut progress = Progress::default();
        let mut verdict = Verdict::NoJob;
        for attempt in 0..stage.attempts {
            let mut call = stage.call;
            if attempt > 0 {
                self.record(Fault::StageRepeated);
                call.killed_at = call.killed_at.saturating_sub(20);
            }
            let io;
            (verdict, io) = match cleanup_after.filter(|_| attempt == 0) {
                None => self.one_run(stage, call).await,
                Some(after) => self.run_beside_cleanup(stage, call, after).await,
            };
            self.check_run(stage, &program, &verdict, &io, &mut progress);
            if verdict == Verdict::Success || io.was_cancelled {
                break;
            }
        }
        let ran = self.executions(&stage.script);
        let files_lost =
            self.manager.cloud.state.lock().unwrap().faults.has_injected(&[Fault::FilesLost]);
        self.claim(ran <= 1 + progress.repeats || files_lost, || {
            format!("the script of {} was started {ran} times, {} of them as a repetition of one that had failed", stage.name, progress.repeats)
        });
        verdict
    }

    async fn one_run(&mut self, stage: &Stage, call: Call) -> (Verdict, Io) {
        let script = stage.script.clone();
        self.call(stage.name, call, async move |process, io| {
            stages::run(process, stage.name, &script, io).await
        })
        .await
    }

    /// An operator calls `cleanup` during the stage: it waits, or the stage finds no job.
    async fn run_beside_cleanup(
        &mut self,
        stage: &Stage,
        call: Call,
        after: Duration,
    ) -> (Verdict, Io) {
        self.record(Fault::CleanupBesideStage);
        let mut other = Self::new(self.manager.clone(), Plan::new(0));
        let (ran, ()) = tokio::join!(self.one_run(stage, call), async {
            tokio::time::sleep(after).await;
            other.cleanup(Call::default()).await;
        });
        self.called.append(&mut other.called);
        self.wrong.append(&mut other.wrong);
        ran
    }

    async fn cleanups(&mut self, cleanup: Cleanup) {
        if cleanup.beside == 0 {
            self.cleanup(cleanup.call).await;
            return;
        }
        self.record(Fault::CleanupsAtOnce);
        let mut others: Vec<Self> =
            (0..cleanup.beside).map(|_| Self::new(self.manager.clone(), Plan::new(0))).collect();
        let all = async {
            match &mut others[..] {
                [one] => _ = one.cleanup(Call::default()).await,
                [one, two] => {
                    _ = tokio::join!(one.cleanup(Call::default()), two.cleanup(Call::default()))
                }
                more => unreachable!("{} more at once", more.len()),
            }
        };
        tokio::join!(self.cleanup(cleanup.call), all);
        for mut other in others {
            self.called.append(&mut other.called);
            self.wrong.append(&mut other.wrong);
        }
    }

    async fn cleanup(&mut self, call: Call) -> Verdict {
        if self.called.iter().any(|called| called.stage == "cleanup") {
            self.record(Fault::CleanupRepeated);
        }
        let waits = self.plan.waits;
        let verdict =
            self.end(call, if waits { Goal::End } else { Goal::Stop }, StopReason::Cleanup).await;
        if is_over(&verdict) {
            let kept = self.manager.snapshot();
            let ends = |snapshot: &Snapshot| matches!(&snapshot.job, AnyJob::Stopping(job) if !waits && job.state.all_accepted());
            self.claim(kept.as_ref().is_none_or(ends), || {
                format!("cleanup succeeded, and the snapshot is still there: {kept:?}")
            });
            let mut alive = self.manager.cloud.alive();
            if self.manager.of_job(WARM).snapshot().is_some() {
                // It is still the pool's.
                let state = self.manager.cloud.state.lock().unwrap();
                alive.retain(|task| state.tasks[task.as_str()].started_by != WARM);
            }
            self.claim(alive.is_empty(), || {
                format!("cleanup succeeded, and no stop was accepted of {alive:?}")
            });
        }
        // Another job's stage may come at any time, and die at any step.
        if self.plan.looked_at > 0 {
            self.look(Call { killed_at: self.plan.looked_at, ..Call::default() }).await;
        }
        verdict
    }

    async fn end(&mut self, call: Call, goal: Goal, reason: StopReason) -> Verdict {
        self.call("cleanup", call, async move |process, io| {
            stages::end(process, goal, reason, io).await
        })
        .await
        .0
    }

    fn executions(&self, script: &Bytes) -> usize {
        let state = self.manager.cloud.state.lock().unwrap();
        state.executions.iter().filter(|execution| execution.script == *script).count()
    }

    /// Checks a process's output and its verdict.
    fn check_run(
        &mut self,
        stage: &Stage,
        program: &Program,
        verdict: &Verdict,
        io: &Io,
        progress: &mut Progress,
    ) {
        let executions = self.executions(&stage.script);
        if executions != progress.executions {
            *progress = Progress { executions, repeats: progress.repeats, ..Progress::default() };
        }
        let whole = &program.output;
        // The farthest offset at which it can have continued without a gap.
        let from =
            (0..=progress.handed_on).rev().find(|from| whole[*from..].starts_with(&io.output));
        match from {
            None => {
                let said = String::from_utf8_lossy(&io.output).into_owned();
                self.wrong.push(format!(
                    "{}: after {} bytes came {said:?}: not what the script wrote",
                    stage.name, progress.handed_on
                ));
            }
            Some(from) => {
                let twice = if io.output.is_empty() { 0 } else { progress.handed_on - from };
                let unmarked = self
                    .manager
                    .cloud
                    .state
                    .lock()
                    .unwrap()
                    .faults
                    .has_injected(&[Fault::Unmarked]);
                self.claim(twice <= progress.unmarked || unmarked, || {
                    format!(
                        "{}: {twice} bytes came twice, and only {} can have been without a mark",
                        stage.name, progress.unmarked
                    )
                });
                if !io.output.is_empty() {
                    // All but the last write is marked: the process may die before the mark.
                    let marked = from + io.output.len() - io.last_write;
                    progress.handed_on = progress.handed_on.max(from + io.output.len());
                    progress.unmarked = progress.handed_on - marked;
                }
            }
        }
        let (handed_on, total) = (progress.handed_on, whole.len());
        match verdict {
            Verdict::Success | Verdict::Exit(_) => {
                let code = if let Verdict::Exit(code) = verdict { *code } else { 0 };
                self.claim(code == program.code && executions > 0, || {
                    format!(
                        "{}: the script's status is {}, and gitlab-runner got {verdict:?}",
                        stage.name, program.code
                    )
                });
                self.claim(handed_on == total, || {
                    format!(
                        "{}: {handed_on} of {total} bytes were handed on by {verdict:?}",
                        stage.name
                    )
                });
            }
            _ => {}
        }
        if self.is_finished_without_success(stage, verdict) {
            progress.repeats += 1;
        }
    }

    /// Whether a repetition of the stage may start its script again.
    fn is_finished_without_success(&self, stage: &Stage, verdict: &Verdict) -> bool {
        if matches!(verdict, Verdict::Exit(_) | Verdict::Lost | Verdict::Cancelled) {
            return true;
        }
        let Some(AnyJob::Reachable(job)) = self.manager.snapshot().map(|snapshot| snapshot.job)
        else {
            return false;
        };
        job.state.last.is_some_and(|last| {
            last.stage == stage.name && !matches!(last.outcome, RunOutcome::Exited { code: 0, .. })
        })
    }
}

/// The progress of a stage's script after its calls so far.
#[derive(Default)]
struct Progress {
    executions: usize,
    handed_on: usize,
    /// How many of the last bytes a killed process may not have marked.
    unmarked: usize,
    repeats: usize,
}

pub fn is_over(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Success | Verdict::NoJob)
}
