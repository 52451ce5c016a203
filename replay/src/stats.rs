//! `stats`: statistics of all finished jobs.

mod costs;
mod html;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use diagnosis::{
    Cause,
    costs::Prices,
    timeline::{STATES, number},
    words,
};
use serde::Serialize;
use states::{StateName, Timestamp, foreign_text::tame};

use self::costs::{CostStatistics, Costs};
#[cfg(test)]
pub(crate) use self::html::ROWS;
use crate::{
    Failure, Location, Screen, archive,
    baseline::Lengths,
    page,
    pools::PoolCounts,
    screen::{Tone, fit, pad, printable_json},
    summary::{JobVerdict, Summary},
};

/// Task definitions in the text, at most: those that took the most time.
const DEFINITIONS: usize = 10;
/// Bars of a histogram. Each counts lengths up to twice those of the bar before; the first, up to
/// one second.
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

/// What is counted in the archive.
#[derive(Debug)]
struct Tally {
    jobs: usize,
    verdicts: BTreeMap<JobVerdict, usize>,
    causes: BTreeMap<Cause, usize>,
    /// How long each job took.
    lengths: Lengths,
    definitions: BTreeMap<String, Definition>,
    /// Pools of warm tasks, by name.
    pools: BTreeMap<String, PoolCounts>,
    costs: Costs,
}

/// The jobs of one task definition.
#[derive(Debug, Default)]
struct Definition {
    jobs: usize,
    /// The sum of all jobs' lengths.
    millis: u64,
    /// How long each job was in each state. Jobs that were never in it do not count.
    states: [Lengths; 6],
}

/// Percentiles of lengths, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Percentiles {
    count: usize,
    p50_ms: u64,
    p95_ms: u64,
    p99_ms: u64,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Statistics {
    jobs: usize,
    verdicts: BTreeMap<JobVerdict, usize>,
    causes: BTreeMap<Cause, usize>,
    length: Option<Percentiles>,
    /// In descending order of their time.
    task_definitions: Vec<DefinitionStatistics>,
    /// Pools of warm tasks, by name.
    pools: BTreeMap<String, PoolCounts>,
    /// `None` if no job has facts that costs depend on.
    costs: Option<CostStatistics>,
}

/// A task definition in the output of `--json`.
#[derive(Debug, Serialize)]
struct DefinitionStatistics {
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
    pub fn run(&self, location: &Location, screen: &mut Screen) -> Result<(), Failure> {
        let prices = location.prices().map_err(|e| Failure::Other(e.to_string()))?;
        let mut tally = Tally::new(prices);
        archive::for_each(&location.store, |_, summary| tally.add(summary))?;
        tally.sort();
        if let Some(file) = &self.html {
            return page::write(html::page(&tally, Timestamp::now()), file, screen);
        }
        if self.json {
            let statistics =
                serde_json::to_string_pretty(&tally.statistics()).map_err(io::Error::from)?;
            screen.write_all(printable_json(&statistics).as_bytes())?;
            writeln!(screen)?;
        } else {
            tally.print(screen)?;
        }
        screen.flush()?;
        Ok(())
    }
}

impl Tally {
    fn new(prices: Prices) -> Self {
        Self {
            jobs: 0,
            verdicts: BTreeMap::new(),
            causes: BTreeMap::new(),
            lengths: Lengths::default(),
            definitions: BTreeMap::new(),
            pools: BTreeMap::new(),
            costs: Costs::new(prices),
        }
    }

    fn add(&mut self, summary: &Summary<'_>) {
        if let Some(part) = &summary.pool {
            self.pools.entry(part.pool().to_owned()).or_default().add(part);
        }
        if !summary.is_job() {
            return;
        }
        self.jobs += 1;
        *self.verdicts.entry(summary.verdict).or_default() += 1;
        if summary.cause != Cause::Nothing {
            *self.causes.entry(summary.cause).or_default() += 1;
        }
        let length: u64 = summary.totals.iter().sum();
        self.lengths.add(length);
        self.costs.add(summary);
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

    fn sort(&mut self) {
        self.lengths.sort();
        self.definitions
            .values_mut()
            .flat_map(|definition| &mut definition.states)
            .for_each(Lengths::sort);
    }

    fn statistics(&self) -> Statistics {
        let task_definitions =
            self.by_time().into_iter().map(|(name, definition)| DefinitionStatistics {
                task_definition: name.to_owned(),
                jobs: definition.jobs,
                total_ms: definition.millis,
                states: STATES
                    .into_iter()
                    .filter_map(|state| {
                        Some((state, percentiles_of(&definition.states[number(state)])?))
                    })
                    .collect(),
            });
        Statistics {
            jobs: self.jobs,
            verdicts: self.verdicts.clone(),
            causes: self.causes.clone(),
            length: percentiles_of(&self.lengths),
            task_definitions: task_definitions.collect(),
            pools: self.pools.clone(),
            costs: self.costs.statistics(),
        }
    }

    /// Returns the task definitions in descending order of their time.
    fn by_time(&self) -> Vec<(&str, &Definition)> {
        let mut definitions: Vec<_> =
            self.definitions.iter().map(|(name, definition)| (name.as_str(), definition)).collect();
        definitions.sort_by_key(|(_, definition)| std::cmp::Reverse(definition.millis));
        definitions
    }

    fn print(&self, screen: &mut Screen) -> io::Result<()> {
        if self.jobs == 0 {
            writeln!(screen, "No finished jobs: the archive is empty.")?;
            return self.print_pools(screen);
        }
        print_heading(screen, &format!("{} finished jobs", self.jobs))?;
        for verdict in JobVerdict::ALL {
            if let Some(count) = self.verdicts.get(&verdict) {
                print_count(screen, verdict.words(), *count, self.jobs)?;
            }
        }
        if !self.causes.is_empty() {
            print_heading(screen, "\nWhat was wrong")?;
            let mut causes: Vec<_> = self.causes.iter().collect();
            causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (cause, count) in causes {
                print_count(screen, &cause.name(), *count, self.jobs)?;
            }
        }
        print_heading(screen, "\nHow long jobs took")?;
        print_histogram(&self.lengths, screen)?;
        print_heading(screen, "\nTime in each state, by task definition")?;
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
                fit(name, screen.width.saturating_sub(2 + after.len()))
            )?;
            for state in STATES {
                if let Some(percentiles) = percentiles_of(&definition.states[number(state)]) {
                    let [p50, p95, p99] =
                        [percentiles.p50_ms, percentiles.p95_ms, percentiles.p99_ms]
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
        self.print_pools(screen)?;
        self.costs.print(screen)
    }

    fn print_pools(&self, screen: &mut Screen) -> io::Result<()> {
        if self.pools.is_empty() {
            return Ok(());
        }
        print_heading(screen, "\nPools of warm tasks")?;
        for (name, counts) in &self.pools {
            writeln!(screen, "  {}", fit(&tame(name), screen.width.saturating_sub(2)))?;
            writeln!(screen, "    {}", counts.words())?;
        }
        Ok(())
    }
}

fn percentiles_of(lengths: &Lengths) -> Option<Percentiles> {
    let millis =
        |percent| Some(u64::try_from(lengths.percentile(percent)?.as_millis()).unwrap_or(u64::MAX));
    Some(Percentiles {
        count: lengths.count(),
        p50_ms: millis(50)?,
        p95_ms: millis(95)?,
        p99_ms: millis(99)?,
    })
}

fn print_heading(screen: &mut Screen, text: &str) -> io::Result<()> {
    let painted = screen.paint(Tone::Strong, text);
    writeln!(screen, "{painted}")
}

fn print_count(screen: &mut Screen, what: &str, count: usize, all: usize) -> io::Result<()> {
    writeln!(screen, "  {} {count:>8} {:>5.1} %", pad(what, 22), share(count, all))
}

#[allow(clippy::cast_precision_loss, reason = "a share to a tenth of a percent")]
fn share(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// Counts the lengths below one second, two, four and so on; the last bar counts the rest.
fn count_by_bar(lengths: &Lengths) -> [usize; BARS] {
    let mut counts = [0; BARS];
    for millis in lengths.all() {
        let bar = (millis / 1000).checked_ilog2().map_or(0, |log| log as usize + 1);
        counts[bar.min(BARS - 1)] += 1;
    }
    counts
}

/// Returns the label of a bar: the lengths that it counts.
fn bar_label(bar: usize) -> String {
    let limit = |bar: usize| words::span(Duration::from_secs(1 << bar));
    if bar == BARS - 1 {
        format!("from {}", limit(bar - 1))
    } else {
        format!("below {}", limit(bar))
    }
}

fn print_histogram(lengths: &Lengths, screen: &mut Screen) -> io::Result<()> {
    let counts = count_by_bar(lengths);
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let room = screen.width.saturating_sub(26);
    for (bar, count) in counts.iter().enumerate().take(last + 1).skip(first) {
        // A bar that counts anything is visible.
        let columns = (count * room / most).max(usize::from(*count > 0));
        let cells = screen.paint(Tone::Good, &"█".repeat(columns));
        writeln!(screen, "  {} {count:>7} {cells}", pad(&bar_label(bar), 14))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::PoolUse;

    #[test]
    fn bars_double_in_length_and_the_last_counts_the_rest() {
        let mut lengths = Lengths::default();
        [0, 999, 1000, 1999, 2000, 3999, 4000, u64::from(u32::MAX)]
            .into_iter()
            .for_each(|millis| lengths.add(millis));
        lengths.sort();
        let counts = count_by_bar(&lengths);
        assert_eq!(counts[..4], [2, 2, 2, 1]);
        assert_eq!(counts[BARS - 1], 1);
        assert_eq!(counts.iter().sum::<usize>(), lengths.count());
    }

    #[test]
    fn states_that_a_job_was_never_in_do_not_count_and_the_longest_definition_is_first() {
        let path = format!("{}/../fixtures/snapshots/v1/stopping.ron", env!("CARGO_MANIFEST_DIR"));
        let snapshot = states::Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let note = Summary::note(&snapshot);
        let mut tally = Tally::new(Prices::built_in());
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
        tally.sort();
        let statistics = tally.statistics();
        assert_eq!(statistics.jobs, 3);
        let large = &statistics.task_definitions[0];
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
        assert_eq!(statistics.verdicts.values().sum::<usize>(), 3);
    }

    #[test]
    fn warm_tasks_count_for_their_pool_and_not_as_jobs() {
        let path = format!("{}/../fixtures/snapshots/v1/stopping.ron", env!("CARGO_MANIFEST_DIR"));
        let snapshot = states::Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let note = Summary::note(&snapshot);
        let mut tally = Tally::new(Prices::built_in());
        for part in [
            PoolUse::Hit { pool: "p".into(), idle: 60_000 },
            PoolUse::Missed { pool: "p".into() },
            PoolUse::Warm { pool: "p".into(), idle: 30_000 },
        ] {
            let mut summary = Summary::parse(&note).unwrap();
            summary.pool = Some(part);
            tally.add(&summary);
        }
        assert_eq!(tally.statistics().jobs, 2);
        let counts = tally.pools["p"];
        let expected = PoolCounts { hits: 1, misses: 1, unclaimed: 1, idle_ms: 90_000 };
        assert_eq!((counts, counts.hit_rate()), (expected, Some(50)));
        assert_eq!(PoolCounts::default().hit_rate(), None);
    }
}
