//! The journal's entries that matter.

use states::{Entry, Observation, StateName, TaskReport};

use super::Tale;
use crate::replay::{diagnosis::Evidence, timeline::Timeline};

/// Entries shown unless all are wanted.
const ENOUGH: usize = 30;

/// A line of the journal, or a gap in it.
pub(in crate::replay) enum Line {
    /// An entry, the state that the job was in when it came, and whether it changed that.
    Entry { evidence: Evidence, state: StateName, changed: bool },
    /// So many entries are not shown.
    Gap(u64),
}

/// What is shown of the job's journal.
pub(in crate::replay) fn lines(tale: &Tale) -> Vec<Line> {
    let entries = &tale.snapshot.journal.entries;
    let mut chosen: Vec<(usize, Line)> = Vec::new();
    let mut before: Option<&Entry> = None;
    for (index, entry) in entries.iter().enumerate() {
        let state = state_at(&tale.story, entry);
        let changed = tale
            .story
            .spans
            .iter()
            .skip(1)
            .any(|visit| visit.from == entry.at || entry.last == Some(visit.from));
        if tale.all || changed || matters(entry, before, index + 1 == entries.len()) {
            chosen.push((index, Line::Entry { evidence: Evidence::of(entry), state, changed }));
        }
        if matches!(entry.saw, Observation::Described(_) | Observation::Launched(_)) {
            before = Some(entry);
        }
    }
    if !tale.all && chosen.len() > ENOUGH {
        chosen.drain(ENOUGH / 3..chosen.len() - ENOUGH * 2 / 3);
    }
    with_gaps(chosen, entries.len())
}

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

fn state_at(story: &Timeline, entry: &Entry) -> StateName {
    let seen = story.observations.iter().find(|(at, _, saw)| *at == entry.at && *saw == entry.saw);
    seen.map_or(story.current().state, |(_, state, _)| *state)
}

/// Whether an entry that changed no state says something all the same.
fn matters(entry: &Entry, before: Option<&Entry>, newest: bool) -> bool {
    match &entry.saw {
        Observation::Progress { .. }
        | Observation::TimePassed
        | Observation::Answered(_)
        | Observation::Missing => newest,
        Observation::Described(report) => newest || !told(report, before),
        _ => true,
    }
}

/// Whether the report before said the same.
fn told(report: &TaskReport, before: Option<&Entry>) -> bool {
    let Some(Observation::Described(known) | Observation::Launched(known)) =
        before.map(|entry| &entry.saw)
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
