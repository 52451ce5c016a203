//! Selects the journal's important entries.

use diagnosis::{Evidence, timeline::Timeline};
use states::{Entry, Observation, StateName, TaskReport};

use super::Report;

/// Entries shown without `--all`, at most.
const MAX_ENTRIES: usize = 30;

/// A line of the report's journal.
pub(super) enum Line {
    /// An entry, the job's state before it, and whether it changed the state.
    Entry { evidence: Evidence, state: StateName, changed: bool },
    /// The number of entries that are not shown here.
    Gap(u64),
}

/// Returns the lines of the report's journal.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    let entries = &report.snapshot.journal.entries;
    let mut chosen: Vec<(usize, Line)> = Vec::new();
    let mut previous: Option<&Entry> = None;
    for (index, entry) in entries.iter().enumerate() {
        let state = state_at(&report.timeline, entry);
        let changed = report
            .timeline
            .spans
            .iter()
            .skip(1)
            .any(|span| span.from == entry.at || entry.last == Some(span.from));
        if report.all || changed || is_important(entry, previous, index + 1 == entries.len()) {
            chosen.push((index, Line::Entry { evidence: Evidence::of(entry), state, changed }));
        }
        if matches!(entry.saw, Observation::Described(_) | Observation::Launched(_)) {
            previous = Some(entry);
        }
    }
    if !report.all && chosen.len() > MAX_ENTRIES {
        chosen.drain(MAX_ENTRIES / 3..chosen.len() - MAX_ENTRIES * 2 / 3);
    }
    with_gaps(chosen, entries.len())
}

/// Adds the gaps between the chosen entries, of `count` in all.
fn with_gaps(chosen: Vec<(usize, Line)>, count: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut next = 0;
    for (index, line) in chosen {
        if index > next {
            lines.push(Line::Gap((index - next) as u64));
        }
        next = index + 1;
        lines.push(line);
    }
    if count > next {
        lines.push(Line::Gap((count - next) as u64));
    }
    lines
}

/// Returns the job's state before an entry.
fn state_at(timeline: &Timeline, entry: &Entry) -> StateName {
    let observed =
        timeline.observations.iter().find(|(at, _, saw)| *at == entry.at && *saw == entry.saw);
    observed.map_or(timeline.current().state, |(_, state, _)| *state)
}

/// Whether an entry is shown although it changed no state.
fn is_important(entry: &Entry, previous: Option<&Entry>, is_newest: bool) -> bool {
    match &entry.saw {
        Observation::Progress { .. }
        | Observation::TimePassed
        | Observation::Answered(_)
        | Observation::Missing => is_newest,
        Observation::Described(report) => is_newest || !is_known(report, previous),
        _ => true,
    }
}

/// Whether the previous report of the task had the same facts.
fn is_known(report: &TaskReport, previous: Option<&Entry>) -> bool {
    let Some(Observation::Described(known) | Observation::Launched(known)) =
        previous.map(|entry| &entry.saw)
    else {
        return false;
    };
    let ends = |report: &TaskReport| {
        report.containers.iter().map(|c| (c.exit_code, c.reason.clone())).collect::<Vec<_>>()
    };
    known.status == report.status
        && known.stop_desired == report.stop_desired
        && known.stopped == report.stopped
        && (ends(known) == ends(report) || ends(report).iter().all(|end| *end == (None, None)))
}
