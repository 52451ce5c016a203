//! Replays a journal through today's machine and compares the states with the recorded ones.
//!
//! A snapshot holds a job's last state and, with every journal entry, the [`StateDigest`] of the
//! state that followed. So it shows whether today's machine decides as the one that wrote it, and
//! where the two first differ.

use std::fmt;

use crate::{Action, AnyJob, Job, Observation, Snapshot, StateDigest, Timestamp, journal::Moment};

/// Decides as [`AnyJob::observe`] does.
type Machine<'a> = Box<dyn Fn(AnyJob, &Observation, Timestamp) -> AnyJob + 'a>;

/// A replay: a cursor that moves through a journal.
pub struct Replay<'a> {
    snapshot: &'a Snapshot,
    machine: Machine<'a>,
    moments: Vec<Moment>,
    done: usize,
    job: AnyJob,
}

/// One observation, replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed<'a> {
    /// Its number, counted from 1.
    pub number: usize,
    /// Its journal entry's number, counted from 1. An entry may stand for many equal observations.
    pub entry: usize,
    /// When it was observed.
    pub at: Timestamp,
    /// What was observed.
    pub saw: &'a Observation,
    /// Today's machine's state after it.
    pub job: AnyJob,
    /// Today's machine's next action.
    pub action: Action,
    /// The recorded state after it, if there is one that can be compared.
    pub recorded: Option<&'a StateDigest>,
}

impl Replayed<'_> {
    /// Whether today's state is the recorded one; `None` if there is nothing to compare.
    #[must_use]
    pub fn agrees(&self) -> Option<bool> {
        self.recorded.map(|recorded| recorded.agrees(&StateDigest::of(&self.job)))
    }
}

/// Whether a snapshot's recorded states and today's agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They agree, as far as they can be compared.
    Agree {
        /// The number of observations replayed.
        observations: usize,
        /// The number of states compared, including the last one.
        compared: usize,
        /// The number of entries omitted from the middle of the journal. Later states cannot be
        /// compared.
        omitted: u64,
    },
    /// They differ, first here.
    Differ(Box<Difference>),
}

/// The first difference between recorded states and today's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The observation's number, counted from 1; 0 for an empty journal.
    pub number: usize,
    /// Its journal entry's number, counted from 1.
    pub entry: usize,
    /// When it was observed.
    pub at: Timestamp,
    /// The observation; `None` for an empty journal.
    pub saw: Option<Observation>,
    /// The recorded state; `None` if only the snapshot's last state differs.
    pub recorded: Option<StateDigest>,
    /// Today's machine's state.
    pub today: AnyJob,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at observation {} (journal entry {}, {}), ", self.number, self.entry, self.at)?;
        match &self.recorded {
            Some(recorded) if recorded.state == self.today.name() => {
                write!(f, "both are {}, but differ in what they hold", recorded.state)
            }
            Some(recorded) => write!(
                f,
                "{} was recorded, and today's machine is {}",
                recorded.state,
                self.today.name()
            ),
            None => write!(
                f,
                "the last one, the state that was saved is not the one that today's machine is in, {}",
                self.today.name()
            ),
        }
    }
}

impl<'a> Replay<'a> {
    /// A replay by today's machine, at the journal's beginning.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self::by(snapshot, AnyJob::observe)
    }

    /// A replay by another machine.
    pub fn by(
        snapshot: &'a Snapshot,
        machine: impl Fn(AnyJob, &Observation, Timestamp) -> AnyJob + 'a,
    ) -> Self {
        let job = Job::new(snapshot.job.header().clone()).into();
        Self {
            snapshot,
            machine: Box::new(machine),
            moments: snapshot.journal.moments(),
            done: 0,
            job,
        }
    }

    /// The number of observations.
    #[must_use]
    pub fn length(&self) -> usize {
        self.moments.len()
    }

    /// The number of observations replayed so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.done
    }

    /// The state reached.
    #[must_use]
    pub fn job(&self) -> &AnyJob {
        &self.job
    }

    /// The time reached.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let last = self.done.checked_sub(1).and_then(|done| self.moments.get(done));
        last.map_or(self.job.header().created, |moment| moment.at)
    }

    /// Replays the next observation.
    pub fn advance(&mut self) -> Option<Replayed<'a>> {
        let moment = *self.moments.get(self.done)?;
        self.done += 1;
        let entry = &self.snapshot.journal.entries[moment.entry];
        self.job = (self.machine)(self.job.clone(), &entry.saw, moment.at);
        let action = self.job.plan(moment.at);
        let comparable = moment.last && moment.entry < self.snapshot.journal.whole_until();
        Some(Replayed {
            number: self.done,
            entry: moment.entry + 1,
            at: moment.at,
            saw: &entry.saw,
            job: self.job.clone(),
            action,
            recorded: entry.left.as_ref().filter(|_| comparable),
        })
    }

    /// Goes to just after observation `number`, forwards or back. Returns it, or `None` at the
    /// beginning.
    pub fn go_to(&mut self, number: usize) -> Option<Replayed<'a>> {
        let number = number.min(self.length());
        if number <= self.done {
            // Begin again: states are not kept, as a journal may be long and a transition takes a
            // microsecond.
            self.done = 0;
            self.job = Job::new(self.snapshot.job.header().clone()).into();
        }
        let mut reached = None;
        while self.done < number {
            reached = self.advance();
        }
        reached
    }

    /// Whether the snapshot's last state is today's; `None` if entries were omitted. States of a
    /// different shape are compared by name only.
    #[must_use]
    pub fn ends_where_the_job_did(&self) -> Option<bool> {
        let journal = &self.snapshot.journal;
        let newest = self.moments.last().map(|moment| &journal.entries[moment.entry]);
        let is_todays = newest
            .is_none_or(|entry| entry.left.as_ref().is_some_and(StateDigest::has_todays_shape));
        let agree = || {
            if is_todays {
                self.job == self.snapshot.job
            } else {
                self.job.name() == self.snapshot.job.name()
            }
        };
        (journal.omitted == 0).then(agree)
    }

    /// Replays to the end and compares all states.
    #[must_use]
    pub fn verdict(mut self) -> Verdict {
        let mut compared = 0;
        let mut last = None;
        while let Some(step) = self.advance() {
            match step.agrees() {
                Some(false) => return Verdict::Differ(Box::new(Difference::at(&step))),
                Some(true) => compared += 1,
                None => {}
            }
            last = Some(step);
        }
        match self.ends_where_the_job_did() {
            Some(false) => {
                let difference = match &last {
                    Some(step) => Difference { recorded: None, ..Difference::at(step) },
                    None => Difference {
                        number: 0,
                        entry: 0,
                        at: self.now(),
                        saw: None,
                        recorded: None,
                        today: self.job.clone(),
                    },
                };
                Verdict::Differ(Box::new(difference))
            }
            ends => Verdict::Agree {
                observations: self.length(),
                compared: compared + usize::from(ends.is_some()),
                omitted: self.snapshot.journal.omitted,
            },
        }
    }
}

impl Difference {
    fn at(step: &Replayed<'_>) -> Self {
        Self {
            number: step.number,
            entry: step.entry,
            at: step.at,
            saw: Some(step.saw.clone()),
            recorded: step.recorded.cloned(),
            today: step.job.clone(),
        }
    }
}

impl Snapshot {
    /// Replays the journal and compares the recorded states with today's.
    #[must_use]
    pub fn replay(&self) -> Verdict {
        Replay::new(self).verdict()
    }
}
