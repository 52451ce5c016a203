//! `Executing`: the script runs in the container whether we are connected or not. Follow it; when
//! the connection is lost, knock and ask ECS whether the task lives; end it when asked to.

use super::{DESCRIBE, RECONNECT, Step, probing};
use crate::{
    Action, Asking, Ending, Executing, Finished, Follow, Job, Link, Observation, Probing,
    Reachable, Readiness, RunError, RunLoss, RunOutcome, Sent, Signal, StopReason, Stopping,
    Timestamp, Watch,
};

/// Connections in a row without a byte, and none that [`WORKED`], that make us believe that the run
/// cannot be followed.
const HOPELESS: u32 = 50;
/// A connection over which the container answered, and that was there for so long after it, has
/// worked, even if the script said nothing: it is no connection that comes and goes. One that is
/// dead from its first answer on must not last that long, and is noticed after 60 s of silence
/// (SSH, four times `KeepAlive`) or 90 s (ECS Exec).
const WORKED: std::time::Duration = std::time::Duration::from_secs(120);
/// A connection that ended sooner, and had brought less output than [`MUCH`], did not last. The
/// more of them there were in a row, the longer the next one is waited for, even if each brought a
/// byte: a server in the container can do that for ever.
const LASTING: std::time::Duration = std::time::Duration::from_secs(10);
/// Bytes of output that make a connection a good one however soon it ended.
const MUCH: u64 = 1024 * 1024;
/// Connections in a row that did not last after which the run is given up, whatever they brought:
/// some forty minutes of them.
const ENDLESS: u32 = 500;
/// How long after SIGKILL an exit status is waited for, where a connection takes moments.
const AFTER_KILL: std::time::Duration = std::time::Duration::from_secs(10);

impl Job<Executing> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Executing> {
        match saw {
            // Until when the connection of a process that is gone worked, nobody knows.
            Observation::Opened { .. } => {
                self.state.followed = None;
                self.state.connected = None;
                self.state.link = self.down(true, now);
            }
            Observation::Answered(_) => {
                self.state.followed = None;
                self.state.connected = Some((now, self.state.offset));
                self.state.link = Link::Up;
            }
            Observation::Unreachable(_)
            | Observation::Described(_)
            | Observation::Missing
            | Observation::DescribeFailed(_) => {
                if let Some(reason) = self.observe_while_down(saw, now) {
                    return Step::Stop(self.stop(reason, now));
                }
            }
            Observation::Delivered => {
                self.state.started = true;
                if self.state.link == Link::Up {
                    self.state.followed.get_or_insert(now);
                }
            }
            // Bytes are progress, and so is a connection that works for long: see `run_failed`. One
            // that comes and goes without any must not look like one that works.
            Observation::Progress { offset } if *offset > self.state.offset => {
                self.state.started = true;
                self.state.offset = *offset;
                self.state.failures = 0;
            }
            Observation::Exited { code, total } => {
                self.state.offset = *total;
                return Step::Next(
                    self.finish(RunOutcome::Exited { code: *code, total: *total }, now),
                );
            }
            Observation::RunFailed(error) => return self.run_failed(error, now),
            Observation::Signalled(signal) => {
                if let Some(ending) = &mut self.state.ending {
                    ending.sent = ending.sent.after(*signal, now);
                }
            }
            Observation::CancelRequested => {
                let grace = self.header.limits.grace;
                let transport = self.header.transport();
                let after_kill = match transport.readiness {
                    Readiness::Probed => AFTER_KILL,
                    // The session may have to wait for a slot first: a cancel is worth one attempt.
                    Readiness::ExecAgent => transport.attempt_timeout,
                };
                self.state.ending.get_or_insert(Ending {
                    sent: Sent::Nothing,
                    kill_at: now + grace,
                    deadline: now + grace + after_kill,
                });
            }
            Observation::StopRequested(reason) => {
                let reason = reason.clone();
                return Step::Stop(self.stop(reason, now));
            }
            // Bytes that were handed on before, and time.
            Observation::Progress { .. } | Observation::TimePassed => {}
            // Answers to what is not asked here, and a script that is asked for beside another.
            Observation::Launched(_)
            | Observation::LaunchFailed(_)
            | Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::RunRequested { .. }
            | Observation::Found(_)
            | Observation::FindFailed(_)
            | Observation::StopAccepted
            | Observation::StopFailed(_) => {}
        }
        self.check_deadlines(now)
    }

    pub(crate) fn plan(&self, now: Timestamp) -> Action {
        let state = &self.state;
        if let Link::Down { deadline, probing, describing, .. } = &state.link {
            let until =
                state.ending.as_ref().map_or(*deadline, |ending| ending.deadline.min(*deadline));
            return Action::Watch(Watch {
                describe: Some((state.place.task.clone(), describing.next)),
                address: None,
                probe: Some((
                    self.header.destination(state.place.address.as_deref()),
                    probing.next,
                )),
                until,
            });
        }
        let order = state.order.clone();
        let until = match &state.ending {
            None => None,
            Some(ending) => match ending.sent {
                Sent::Nothing => return Action::Signal { order, signal: Signal::Term },
                Sent::Term(_) if now >= ending.kill_at => {
                    return Action::Signal { order, signal: Signal::Kill };
                }
                Sent::Term(_) => Some(ending.kill_at),
                Sent::Kill(_) => Some(ending.deadline),
            },
        };
        Action::Follow(Follow { order, started: state.started, from: state.offset, until })
    }

    fn observe_while_down(&mut self, saw: &Observation, now: Timestamp) -> Option<StopReason> {
        let seed = self.seed();
        let container = &self.header.spec.container;
        let Link::Down { probing, describing, .. } = &mut self.state.link else {
            // The task's end counts even if the answer came just after the connection did.
            let Observation::Described(report) = saw else { return None };
            return report.status.is_over().then(|| probing::stopped(report, container));
        };
        match saw {
            Observation::Unreachable(error) => {
                // Do not wait for the next turn to ask ECS: a refused or reset connection may mean
                // a dead task.
                if probing.attempts == 0 {
                    describing.next = describing.next.min(now);
                }
                probing.failed(error, RECONNECT, seed, now)
            }
            Observation::Described(report) => {
                describing.answered(DESCRIBE, seed, now);
                describing.ending(report, container, now)
            }
            Observation::Missing => describing.missing(DESCRIBE, seed, now),
            Observation::DescribeFailed(error) => {
                // The script may run on for hours without our asking ECS: a refusal to tell is no
                // reason to end it.
                let _believed = describing.failed(error, seed, now);
                None
            }
            _ => None,
        }
    }

    fn run_failed(mut self, error: &RunError, now: Timestamp) -> Step<Executing> {
        match error {
            RunError::ConnectionLost(_) | RunError::Protocol(_) => {
                if self.state.followed.take().is_some_and(|since| now.since(since) >= WORKED) {
                    self.state.failures = 0;
                }
                self.state.failures += 1;
                if let Some((since, from)) = self.state.connected.take() {
                    let has_lasted = now.since(since) >= LASTING
                        || self.state.offset.saturating_sub(from) >= MUCH;
                    self.state.fleeting =
                        if has_lasted { 0 } else { self.state.fleeting.saturating_add(1) };
                }
                if self.state.failures >= HOPELESS {
                    // Its script may still run: nothing must be started beside it.
                    let reason = StopReason::RunAbandoned(RunLoss::NoProgress {
                        connections: HOPELESS,
                        within: WORKED,
                        error: error.clone(),
                    });
                    return Step::Stop(self.stop(reason, now));
                }
                if self.state.fleeting >= ENDLESS {
                    let reason = StopReason::RunAbandoned(RunLoss::ShortLived {
                        connections: ENDLESS,
                        within: LASTING,
                        error: error.clone(),
                    });
                    return Step::Stop(self.stop(reason, now));
                }
                self.state.link = self.down(false, now);
                self.check_deadlines(now)
            }
            // What never reached the container has nothing to end there.
            RunError::Unknown(_) if self.state.ending.is_some() && !self.state.started => {
                Step::Next(self.finish(RunOutcome::NeverSent, now))
            }
            RunError::Unknown(_) => {
                let reason = StopReason::RunAbandoned(RunLoss::Unknown {
                    run_dir: self.state.place.facts.run_dir.clone(),
                    error: error.clone(),
                });
                Step::Stop(self.stop(reason, now))
            }
            RunError::NoStatus(_) | RunError::NotStarted(_) => {
                Step::Next(self.finish(RunOutcome::Failed(error.clone()), now))
            }
        }
    }

    fn check_deadlines(self, now: Timestamp) -> Step<Executing> {
        if let Some(ending) = &self.state.ending
            && now >= ending.deadline
        {
            return Step::Stop(self.stop(StopReason::Cancelled, now));
        }
        if let Link::Down { deadline, probing, .. } = &self.state.link
            && now >= *deadline
        {
            let reason = self.too_long(self.header.limits.reconnect, probing.obstacle());
            return Step::Stop(self.stop(reason, now));
        }
        Step::Stay(self)
    }

    /// The link of a process that has to connect (again). Failures without progress slow it down,
    /// and connections that did not last.
    fn down(&self, first: bool, now: Timestamp) -> Link {
        let attempts = self.state.failures.max(self.state.fleeting).saturating_sub(1);
        let wait = if attempts == 0 {
            std::time::Duration::ZERO
        } else {
            RECONNECT.interval(attempts, self.seed())
        };
        let describe_in =
            if first { std::time::Duration::from_secs(2) } else { std::time::Duration::ZERO };
        Link::Down {
            deadline: now + self.header.limits.reconnect,
            probing: Probing::from(now + wait),
            describing: Asking::from(now + describe_in),
        }
    }

    fn finish(self, outcome: RunOutcome, now: Timestamp) -> Job<Reachable> {
        let last = Finished {
            run: self.state.order.run,
            stage: self.state.order.stage,
            digest: self.state.digest,
            outcome,
            at: now,
            cancelled: self.state.ending.is_some(),
        };
        Job { header: self.header, state: Reachable { last: Some(last), ..self.state.place } }
    }

    fn stop(self, reason: StopReason, now: Timestamp) -> Job<Stopping> {
        let task = self.state.place.task.clone();
        self.into_stopping(Some(task), None, reason, now)
    }
}
