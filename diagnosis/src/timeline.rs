//! A job's timeline: its journal, replayed by the machine, as spans in states.

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

/// A span of time in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpan {
    /// The state.
    pub state: StateName,
    /// When it was entered.
    pub from: Timestamp,
    /// When it was left, or the latest time at which it is known to have lasted.
    pub to: Timestamp,
    /// The stage whose script ran, in `Executing`.
    pub stage: Option<String>,
    /// How that script ended, if it did.
    pub outcome: Option<RunOutcome>,
}

impl StateSpan {
    /// How long it lasted.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// A job's timeline.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The spans in order; never empty.
    pub spans: Vec<StateSpan>,
    /// Every observation with the job's state at that time.
    pub observations: Vec<(Timestamp, StateName, Observation)>,
    /// The time of the last observation.
    pub newest: Timestamp,
    /// Whether the job is over: its tasks have ended, or ECS has accepted to stop them.
    pub over: bool,
    /// Whether the journal alone leads to the recorded state. It may not if entries were omitted.
    pub exact: bool,
}

impl Timeline {
    /// The job's timeline. A job that is not over lasts until `now`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, now: Timestamp) -> Self {
        let header = snapshot.job.header();
        let mut job = AnyJob::from(Job::new(header.clone()));
        let mut spans = vec![StateSpan::begin(&job, header.created)];
        let mut observations = Vec::new();
        let mut newest = header.created;
        let (mut is_wanted, mut ended) = (false, None);
        for (at, saw) in snapshot.journal.unfold() {
            let before = job.name();
            // What was done after the job's end, perhaps hours later, does not count towards its
            // length.
            if matches!(saw, Observation::Opened { .. }) && is_wanted && is_over(&job) {
                ended.get_or_insert(newest);
            }
            is_wanted |= matches!(saw, Observation::StopRequested(_));
            job = job.observe(&saw, at);
            job.plan(at);
            observations.push((at, before, saw));
            newest = newest.max(at);
            if job.name() != before {
                enter(&mut spans, &job, at);
            }
        }
        let over = is_over(&snapshot.job);
        let exact = job.name() == snapshot.job.name();
        if !exact {
            let since = since(&snapshot.job).unwrap_or(newest);
            enter(&mut spans, &snapshot.job, since);
        }
        if let Some(last) = spans.last_mut() {
            last.to = if over { ended.unwrap_or(newest) } else { now }.max(last.from);
        }
        Self { spans, observations, newest, over, exact }
    }

    /// The present span, or the last.
    #[must_use]
    pub fn current(&self) -> &StateSpan {
        // `of` always makes one.
        self.spans.last().unwrap_or_else(|| unreachable!("a timeline without a span"))
    }

    /// The scripts that ended, with their stages, in order.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &RunOutcome)> {
        self.spans.iter().filter_map(|span| Some((span.stage.as_deref()?, span.outcome.as_ref()?)))
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
        self.spans[0].from
    }

    /// The time from the beginning to the end, or to now.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.current().to.since(self.begin())
    }

    /// The total time in each state, by [`STATES`].
    #[must_use]
    pub fn totals(&self) -> [Duration; 6] {
        self.fold(|sum, length| sum + length)
    }

    /// The longest span in each state, by [`STATES`].
    #[must_use]
    pub fn longest(&self) -> [Duration; 6] {
        self.fold(Duration::max)
    }

    fn fold(&self, with: impl Fn(Duration, Duration) -> Duration) -> [Duration; 6] {
        let mut lengths = [Duration::ZERO; 6];
        for span in &self.spans {
            let length = &mut lengths[number(span.state)];
            *length = with(*length, span.length());
        }
        lengths
    }
}

impl StateSpan {
    fn begin(job: &AnyJob, at: Timestamp) -> Self {
        let stage = if let AnyJob::Executing(job) = job {
            Some(job.state.order.stage.clone())
        } else {
            None
        };
        Self { state: job.name(), from: at, to: at, stage, outcome: None }
    }
}

fn enter(spans: &mut Vec<StateSpan>, job: &AnyJob, at: Timestamp) {
    if let Some(left) = spans.last_mut() {
        left.to = at.max(left.from);
        if let AnyJob::Reachable(job) = job
            && left.state == StateName::Executing
        {
            left.outcome = job.state.last.as_ref().map(|last| last.outcome.clone());
        }
    }
    spans.push(StateSpan::begin(job, at));
}

/// Whether the job is over, except that its tasks may still have to end.
fn is_over(job: &AnyJob) -> bool {
    let AnyJob::Stopping(job) = job else { return false };
    job.state.is_over() || job.state.all_accepted()
}

/// Since when the job is in its state, as far as the state shows.
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
    fn every_span_begins_where_the_one_before_ended() {
        for name in ["provisioning", "pending", "running", "reachable", "executing", "stopping"] {
            let snapshot = fixture(name);
            let now = snapshot.job.header().created + Duration::from_secs(60);
            let timeline = Timeline::of(&snapshot, now);
            assert!(timeline.exact, "{name}");
            assert_eq!(timeline.current().state, snapshot.job.name());
            assert!(
                timeline.spans.windows(2).all(|pair| pair[0].to == pair[1].from),
                "{name}: {timeline:#?}"
            );
            assert_eq!(timeline.totals().iter().sum::<Duration>(), timeline.length(), "{name}");
        }
    }

    #[test]
    fn a_journal_without_its_middle_still_ends_in_the_recorded_state() {
        let mut snapshot = fixture("executing");
        snapshot.journal.entries.drain(1..);
        let timeline =
            Timeline::of(&snapshot, snapshot.job.header().created + Duration::from_secs(60));
        assert!(!timeline.exact);
        assert_eq!(timeline.current().state, StateName::Executing);
    }
}
