//! `Executing`: the script runs in the container, with or without a connection. The driver follows
//! it. When the connection is lost, it probes the container and asks ECS whether the task lives. It
//! ends the script when asked to.

use super::{DESCRIBE, RECONNECT, Step, probing};
use crate::{
    Action, Ending, Executing, Finished, Follow, Job, Link, Observation, Polling, Probing,
    Reachable, Readiness, RunContainer, RunError, RunLoss, RunOutcome, Sent, Signal, StopReason,
    Stopping, Timestamp, Watch,
};

/// After how many connections in a row without a byte, none of which [`WORKED`], the driver gives
/// the run up.
const HOPELESS: u32 = 50;
/// How long a connection must stay up after the container's first answer to count as one that
/// works, even if the script wrote nothing. A connection that is dead after its first answer must
/// not last that long. It is noticed after 60 s of silence (SSH, four times `KeepAlive`) or 90 s
/// (ECS Exec).
const WORKED: std::time::Duration = std::time::Duration::from_secs(120);
/// How long a connection must last, unless it brings as much output as [`MUCH`]. With each shorter
/// one in a row the driver waits longer before the next, even if each brought a byte. A server in
/// the container could go on like that for ever.
const LASTING: std::time::Duration = std::time::Duration::from_secs(10);
/// Bytes of output with which even a short connection counts as a good one.
const MUCH: u64 = 1024 * 1024;
/// After how many short connections in a row the run is given up, whatever they brought. They take
/// some forty minutes.
const ENDLESS: u32 = 500;
/// How long the driver waits for an exit status after SIGKILL, where connecting takes moments.
const AFTER_KILL: std::time::Duration = std::time::Duration::from_secs(10);

impl Job<Executing> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Executing> {
        match saw {
            // It is not known until when the connection of an earlier process worked.
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
                    // The session may have to wait for a slot first: there is time for one attempt.
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
            // Bytes that were handed on before, and passing time.
            Observation::Progress { .. } | Observation::TimePassed => {}
            // Answers to questions of other states, a request for a second script, and what costs
            // depend on.
            Observation::Claimed(_)
            | Observation::Launched(_)
            | Observation::LaunchFailed(_)
            | Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::RunRequested { .. }
            | Observation::Measured { .. }
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
            // The task's end counts even if this answer comes just after the connection is back.
            let Observation::Described(report) = saw else { return None };
            return report.status.is_over().then(|| probing::stopped(report, container));
        };
        match saw {
            Observation::Unreachable(error) => {
                // Ask ECS at once: a refused or reset connection may mean that the task is dead.
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
                // The script may run for hours without a call to ECS, so a refused call is no
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
                    // Its script may still run: no other may be started beside it.
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
            // A script that never reached the container need not be ended there.
            RunError::Unknown(_) if self.state.ending.is_some() && !self.state.started => {
                Step::Next(self.finish(RunOutcome::NeverSent, now))
            }
            RunError::Unknown(_) => {
                let facts = &self.state.place.facts;
                let run_dir = match (&facts.job, self.state.order.container) {
                    (Some(job), RunContainer::Job) => &job.run_dir,
                    _ => &facts.run_dir,
                };
                let reason = StopReason::RunAbandoned(RunLoss::Unknown {
                    run_dir: run_dir.clone(),
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

    /// The link of a process that has to connect. Failures without progress and short connections
    /// slow it down.
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
            describing: Polling::from(now + describe_in),
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
