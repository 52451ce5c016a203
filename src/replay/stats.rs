//! `stats`: what the archive tells of all finished jobs.

mod html;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use states::{StateName, Timestamp};

#[cfg(test)]
pub(super) use self::html::ROWS;
use super::{
    Failure, Place, Screen, archive,
    diagnosis::Cause,
    page,
    screen::{Tone, pad},
    summary::{Summary, Verdict},
    timeline::{STATES, number},
    usual::Lengths,
    words,
};

/// Task definitions that are shown: those that took most time.
const DEFINITIONS: usize = 10;
/// Bars of a histogram: each is twice as long as the one before, from one second on.
const BARS: usize = 16;

/// `fargate-replay stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// A JSON object for programs; lengths are in milliseconds
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write a page instead; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What the archive tells.
#[derive(Debug, Default)]
struct Tally {
    jobs: usize,
    verdicts: BTreeMap<Verdict, usize>,
    causes: BTreeMap<Cause, usize>,
    /// How long jobs took altogether.
    lengths: Lengths,
    definitions: BTreeMap<String, Definition>,
}

/// The jobs of a task definition.
#[derive(Debug, Default)]
struct Definition {
    jobs: usize,
    millis: u64,
    /// The time in each state, of the jobs that were in it.
    states: [Lengths; 6],
}

/// How long something takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Percentiles {
    count: usize,
    p50_ms: u64,
    p95_ms: u64,
    p99_ms: u64,
}

/// The JSON of it all.
#[derive(Debug, Serialize)]
struct Report {
    jobs: usize,
    verdicts: BTreeMap<Verdict, usize>,
    causes: BTreeMap<Cause, usize>,
    length: Option<Percentiles>,
    task_definitions: Vec<OfDefinition>,
}

/// A task definition in the JSON: that which took most time is the first.
#[derive(Debug, Serialize)]
struct OfDefinition {
    task_definition: String,
    jobs: usize,
    total_ms: u64,
    states: BTreeMap<StateName, Percentiles>,
}

impl Stats {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, place: &Place, screen: &mut Screen) -> Result<(), Failure> {
        let mut tally = Tally::default();
        archive::visit(&place.store, |_, summary| tally.add(summary))?;
        tally.settle();
        if let Some(file) = &self.html {
            return page::write(html::page(&tally, Timestamp::now()), file, screen);
        }
        if self.json {
            let report = serde_json::to_string_pretty(&tally.report()).map_err(io::Error::from)?;
            screen.write_all(super::screen::printable_json(&report).as_bytes())?;
            writeln!(screen)?;
        } else {
            tally.show(screen)?;
        }
        screen.flush()?;
        Ok(())
    }
}

impl Tally {
    fn add(&mut self, summary: &Summary<'_>) {
        self.jobs += 1;
        *self.verdicts.entry(summary.verdict).or_default() += 1;
        if summary.cause != Cause::Nothing {
            *self.causes.entry(summary.cause).or_default() += 1;
        }
        let length: u64 = summary.totals.iter().sum();
        self.lengths.add(length);
        let definition =
            self.definitions.entry(summary.definition.clone().into_owned()).or_default();
        definition.jobs += 1;
        definition.millis += length;
        for (lengths, millis) in
            definition.states.iter_mut().zip(summary.totals).filter(|(_, millis)| *millis > 0)
        {
            lengths.add(millis);
        }
    }

    fn settle(&mut self) {
        self.lengths.settle();
        self.definitions
            .values_mut()
            .flat_map(|definition| &mut definition.states)
            .for_each(Lengths::settle);
    }

    fn report(&self) -> Report {
        let task_definitions = self.by_time().into_iter().map(|(name, definition)| OfDefinition {
            task_definition: name.to_owned(),
            jobs: definition.jobs,
            total_ms: definition.millis,
            states: STATES
                .into_iter()
                .filter_map(|state| Some((state, percentiles(&definition.states[number(state)])?)))
                .collect(),
        });
        Report {
            jobs: self.jobs,
            verdicts: self.verdicts.clone(),
            causes: self.causes.clone(),
            length: percentiles(&self.lengths),
            task_definitions: task_definitions.collect(),
        }
    }

    /// The task definitions, that which took most time first.
    fn by_time(&self) -> Vec<(&str, &Definition)> {
        let mut definitions: Vec<_> =
            self.definitions.iter().map(|(name, definition)| (name.as_str(), definition)).collect();
        definitions.sort_by_key(|(_, definition)| std::cmp::Reverse(definition.millis));
        definitions
    }

    fn show(&self, screen: &mut Screen) -> io::Result<()> {
        if self.jobs == 0 {
            return writeln!(screen, "No finished jobs: the archive is empty.");
        }
        heading(screen, &format!("{} finished jobs", self.jobs))?;
        for verdict in Verdict::ALL {
            if let Some(count) = self.verdicts.get(&verdict) {
                counted(screen, verdict.words(), *count, self.jobs)?;
            }
        }
        if !self.causes.is_empty() {
            heading(screen, "\nWhat was wrong")?;
            let mut causes: Vec<_> = self.causes.iter().collect();
            causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (cause, count) in causes {
                counted(screen, &cause.name(), *count, self.jobs)?;
            }
        }
        heading(screen, "\nHow long jobs took")?;
        histogram(&self.lengths, screen)?;
        heading(screen, "\nTime in each state, by task definition")?;
        let definitions = self.by_time();
        for (name, definition) in definitions.iter().take(DEFINITIONS) {
            let jobs = if definition.jobs == 1 { "job" } else { "jobs" };
            let after = format!(
                "  {} in {} {jobs}",
                words::span(Duration::from_millis(definition.millis)),
                definition.jobs
            );
            writeln!(
                screen,
                "  {}{after}",
                super::screen::fit(name, screen.width.saturating_sub(2 + after.len()))
            )?;
            for state in STATES {
                if let Some(of) = percentiles(&definition.states[number(state)]) {
                    let [p50, p95, p99] = [of.p50_ms, of.p95_ms, of.p99_ms]
                        .map(|millis| words::span(Duration::from_millis(millis)));
                    let state =
                        screen.paint(Tone::State(number(state)), &pad(&state.to_string(), 13));
                    writeln!(screen, "    {state} p50 {p50:<8} p95 {p95:<8} p99 {p99}")?;
                }
            }
        }
        if definitions.len() > DEFINITIONS {
            writeln!(
                screen,
                "  {} more task definitions: --json has them",
                definitions.len() - DEFINITIONS
            )?;
        }
        Ok(())
    }
}

fn percentiles(lengths: &Lengths) -> Option<Percentiles> {
    let millis =
        |percent| Some(u64::try_from(lengths.percentile(percent)?.as_millis()).unwrap_or(u64::MAX));
    Some(Percentiles {
        count: lengths.count(),
        p50_ms: millis(50)?,
        p95_ms: millis(95)?,
        p99_ms: millis(99)?,
    })
}

fn heading(screen: &mut Screen, text: &str) -> io::Result<()> {
    let painted = screen.paint(Tone::Strong, text);
    writeln!(screen, "{painted}")
}

fn counted(screen: &mut Screen, what: &str, count: usize, all: usize) -> io::Result<()> {
    writeln!(screen, "  {} {count:>8} {:>5.1} %", pad(what, 22), percent(count, all))
}

#[allow(clippy::cast_precision_loss, reason = "a share to a tenth of a percent")]
fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// How many lengths are below one second, two, four and so on; the last has all that are longer.
fn counts(lengths: &Lengths) -> [usize; BARS] {
    let mut counts = [0; BARS];
    for millis in lengths.all() {
        let bar = (millis / 1000).checked_ilog2().map_or(0, |log| log as usize + 1);
        counts[bar.min(BARS - 1)] += 1;
    }
    counts
}

/// Which lengths a bar counts.
fn label(bar: usize) -> String {
    let limit = |bar: usize| words::span(Duration::from_secs(1 << bar));
    if bar == BARS - 1 {
        format!("from {}", limit(bar - 1))
    } else {
        format!("below {}", limit(bar))
    }
}

fn histogram(lengths: &Lengths, screen: &mut Screen) -> io::Result<()> {
    let counts = counts(lengths);
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let room = screen.width.saturating_sub(26);
    for (bar, count) in counts.iter().enumerate().take(last + 1).skip(first) {
        // Whatever occurs is seen.
        let columns = (count * room / most).max(usize::from(*count > 0));
        let cells = screen.paint(Tone::Good, &"█".repeat(columns));
        writeln!(screen, "  {} {count:>7} {cells}", pad(&label(bar), 14))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_double_in_length_and_the_last_has_the_rest() {
        let mut lengths = Lengths::default();
        [0, 999, 1000, 1999, 2000, 3999, 4000, u64::from(u32::MAX)]
            .into_iter()
            .for_each(|millis| lengths.add(millis));
        lengths.settle();
        let counts = counts(&lengths);
        assert_eq!(counts[..4], [2, 2, 2, 1]);
        assert_eq!(counts[BARS - 1], 1);
        assert_eq!(counts.iter().sum::<usize>(), lengths.count());
    }

    #[test]
    fn a_state_that_a_job_was_never_in_does_not_count_and_the_costliest_definition_is_first() {
        let path = format!("{}/fixtures/snapshots/v1/stopping.ron", env!("CARGO_MANIFEST_DIR"));
        let snapshot = states::Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let note = Summary::note(&snapshot);
        let mut tally = Tally::default();
        for (definition, totals) in [
            ("small", [1000, 0, 0, 0, 0, 0]),
            ("large", [3000, 0, 0, 0, 9000, 0]),
            ("large", [5000, 0, 0, 0, 0, 0]),
        ] {
            let mut summary = Summary::parse(&note).unwrap();
            summary.definition = definition.into();
            summary.totals = totals;
            tally.add(&summary);
        }
        tally.settle();
        let report = tally.report();
        assert_eq!(report.jobs, 3);
        let large = &report.task_definitions[0];
        assert_eq!(
            (large.task_definition.as_str(), large.jobs, large.total_ms),
            ("large", 2, 17_000)
        );
        assert_eq!(
            large.states[&StateName::Provisioning],
            Percentiles { count: 2, p50_ms: 3000, p95_ms: 5000, p99_ms: 5000 }
        );
        assert_eq!(large.states[&StateName::Executing].count, 1);
        assert!(!large.states.contains_key(&StateName::Pending));
        assert_eq!(report.verdicts.values().sum::<usize>(), 3);
    }
}
