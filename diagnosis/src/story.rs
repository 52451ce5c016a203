//! What happened: a journal read through the machine, as visits to states.

use std::time::Duration;

use states::{AnyJob, Job, Observation, RunOutcome, Snapshot, StateName, Timestamp};

use crate::stage;

/// The states in their order.
pub const STATES: [StateName; 6] = [
    StateName::Provisioning,
    StateName::Pending,
    StateName::Running,
    StateName::Reachable,
    StateName::Executing,
    StateName::Stopping,
];

/// A state's number in [`STATES`].
#[must_use]
pub fn number(state: StateName) -> usize {
    STATES.iter().position(|other| *other == state).unwrap_or(0)
}

/// A stay in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The state.
    pub state: StateName,
    /// When it was entered.
    pub from: Timestamp,
    /// When it was left, or until when it is known to have lasted.
    pub to: Timestamp,
    /// The stage whose script ran, in `Executing`.
    pub stage: Option<String>,
    /// How that script ended, if it did.
    pub outcome: Option<RunOutcome>,
}

impl Visit {
    /// How long it lasted.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// A job's story.
#[derive(Debug, Clone)]
pub struct Story {
    /// Stays in states, in order; never empty.
    pub visits: Vec<Visit>,
    /// Every observation with the state that the job was in when it came.
    pub observations: Vec<(Timestamp, StateName, Observation)>,
    /// When something was last observed.
    pub newest: Timestamp,
    /// Whether the job is over: its tasks are, or ECS has accepted to stop them.
    pub over: bool,
    /// Whether the journal alone leads to the recorded state: not, when entries were left out of
    /// it.
    pub exact: bool,
}

impl Story {
    /// Tells the job's story; a job that is not over lasts until `now`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, now: Timestamp) -> Self {
        let header = snapshot.job.header();
        let mut job = AnyJob::from(Job::new(header.clone()));
        let mut visits = vec![Visit::begin(&job, header.created)];
        let mut observations = Vec::new();
        let mut newest = header.created;
        let (mut is_wanted, mut ended) = (false, None);
        for (at, saw) in snapshot.journal.unfold() {
            let before = job.name();
            // What was done after the job's end, perhaps hours later, is no part of its length.
            if matches!(saw, Observation::Opened { .. }) && is_wanted && is_over(&job) {
                ended.get_or_insert(newest);
            }
            is_wanted |= matches!(saw, Observation::StopRequested(_));
            job = job.observe(&saw, at);
            job.plan(at);
            observations.push((at, before, saw));
            newest = newest.max(at);
            if job.name() != before {
                enter(&mut visits, &job, at);
            }
        }
        let over = is_over(&snapshot.job);
        let exact = job.name() == snapshot.job.name();
        if !exact {
            let since = since(&snapshot.job).unwrap_or(newest);
            enter(&mut visits, &snapshot.job, since);
        }
        if let Some(last) = visits.last_mut() {
            last.to = if over { ended.unwrap_or(newest) } else { now }.max(last.from);
        }
        Self { visits, observations, newest, over, exact }
    }

    /// The stay that lasts still, or was the last.
    #[must_use]
    pub fn current(&self) -> &Visit {
        // `of` begins with one.
        self.visits.last().unwrap_or_else(|| unreachable!("a story without a visit"))
    }

    /// The scripts that ended, with their stages, in order.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &RunOutcome)> {
        self.visits
            .iter()
            .filter_map(|visit| Some((visit.stage.as_deref()?, visit.outcome.as_ref()?)))
    }

    /// The script that failed the job, if one did.
    #[must_use]
    pub fn failed_run(&self) -> Option<(&str, &RunOutcome)> {
        stage::decisive(self.runs(), |outcome| {
            !matches!(outcome, RunOutcome::Exited { code: 0, .. })
        })
    }

    /// When the job began.
    #[must_use]
    pub fn begin(&self) -> Timestamp {
        self.visits[0].from
    }

    /// From the beginning to the end, or until now.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.current().to.since(self.begin())
    }

    /// How long the job was in each state altogether, by [`STATES`].
    #[must_use]
    pub fn totals(&self) -> [Duration; 6] {
        self.fold(|sum, length| sum + length)
    }

    /// The longest stay in each state, by [`STATES`].
    #[must_use]
    pub fn longest(&self) -> [Duration; 6] {
        self.fold(Duration::max)
    }

    fn fold(&self, with: impl Fn(Duration, Duration) -> Duration) -> [Duration; 6] {
        let mut lengths = [Duration::ZERO; 6];
        for visit in &self.visits {
            let length = &mut lengths[number(visit.state)];
            *length = with(*length, visit.length());
        }
        lengths
    }
}

impl Visit {
    fn begin(job: &AnyJob, at: Timestamp) -> Self {
        let stage = if let AnyJob::Executing(job) = job {
            Some(job.state.order.stage.clone())
        } else {
            None
        };
        Self { state: job.name(), from: at, to: at, stage, outcome: None }
    }
}

fn enter(visits: &mut Vec<Visit>, job: &AnyJob, at: Timestamp) {
    if let Some(left) = visits.last_mut() {
        left.to = at.max(left.from);
        if let AnyJob::Reachable(job) = job
            && left.state == StateName::Executing
        {
            left.outcome = job.state.last.as_ref().map(|last| last.outcome.clone());
        }
    }
    visits.push(Visit::begin(job, at));
}

/// Whether nothing of the job is left to do, but perhaps to see its tasks ended.
fn is_over(job: &AnyJob) -> bool {
    let AnyJob::Stopping(job) = job else { return false };
    job.state.is_over() || job.state.all_accepted()
}

/// Since when the job is in its state, as far as the state itself says.
#[must_use]
pub fn since(job: &AnyJob) -> Option<Timestamp> {
    match job {
        AnyJob::Provisioning(job) => Some(job.header.created),
        AnyJob::Pending(job) => Some(job.state.since),
        AnyJob::Running(job) => Some(job.state.since),
        AnyJob::Reachable(job) => {
            Some(job.state.last.as_ref().map_or(job.state.since, |last| last.at))
        }
        AnyJob::Executing(job) => Some(job.state.since),
        AnyJob::Stopping(job) => Some(job.state.since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Snapshot {
        let path = format!("{}/../fixtures/snapshots/v1/{name}.ron", env!("CARGO_MANIFEST_DIR"));
        Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn every_visit_begins_where_the_one_before_ended() {
        for name in ["provisioning", "pending", "running", "reachable", "executing", "stopping"] {
            let snapshot = fixture(name);
            let now = snapshot.job.header().created + Duration::from_secs(60);
            let story = Story::of(&snapshot, now);
            assert!(story.exact, "{name}");
            assert_eq!(story.current().state, snapshot.job.name());
            assert!(
                story.visits.windows(2).all(|pair| pair[0].to == pair[1].from),
                "{name}: {story:#?}"
            );
            assert_eq!(story.totals().iter().sum::<Duration>(), story.length(), "{name}");
        }
    }

    #[test]
    fn a_journal_without_its_middle_still_ends_in_the_recorded_state() {
        let mut snapshot = fixture("executing");
        snapshot.journal.entries.drain(1..);
        let story = Story::of(&snapshot, snapshot.job.header().created + Duration::from_secs(60));
        assert!(!story.exact);
        assert_eq!(story.current().state, StateName::Executing);
    }
}
