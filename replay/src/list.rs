//! `list`: the jobs, those that need help first.

mod table;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use clap::Args;
use diagnosis::{Cause, Diagnosis, Holder, Surroundings, words};
use serde::Serialize;
use states::{AnyJob, Snapshot, StateName, Timestamp, WarmOrigin};

use self::table::Table;
use crate::{
    Failure, Location, LocationError, Screen, archive,
    baseline::Baseline,
    holder, location,
    screen::{Tone, printable_json},
    summary::{JobVerdict, PoolUse, Summary},
};

/// `fargate-replay list`.
#[derive(Debug, Args)]
pub struct List {
    /// Finished jobs too, the newest first
    #[arg(long)]
    archived: bool,
    /// Only jobs that need help: their process is gone, or they have been in their state for longer
    /// than usual
    #[arg(long, conflicts_with = "archived")]
    stuck: bool,
    /// Finished jobs to list at most; 0: all of them, in the order in which they were archived
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// A JSON array for programs; times are RFC 3339, lengths are in milliseconds
    #[arg(long)]
    json: bool,
}

/// How long the service may take to retire a warm task that is too old: it launches another one
/// first.
const RETIRED_WITHIN: Duration = Duration::from_secs(60 * 60);

/// A job in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The snapshot's name: what `show` takes.
    pub snapshot: String,
    /// The project's URL.
    pub project: String,
    /// GitLab's pipeline id.
    pub pipeline: String,
    /// GitLab's job id.
    pub job: String,
    /// The job's name.
    pub name: String,
    /// The task definition.
    pub task_definition: String,
    /// When the job began.
    pub began: Timestamp,
    /// Its state; `None` if the snapshot cannot be used.
    pub state: Option<StateName>,
    /// How long it has been in its state, in milliseconds; for a finished job, how long it took.
    pub in_state_ms: u64,
    /// When the last observation was made.
    pub last_at: Timestamp,
    /// The last observation.
    pub last: String,
    /// How it ended.
    pub verdict: JobVerdict,
    /// Its last script's exit code.
    pub exit_code: Option<i32>,
    /// What is wrong.
    pub cause: Cause,
    /// Why the job needs help.
    pub stuck: Option<String>,
    /// The process that works on it.
    pub worked_on_by: Option<String>,
    /// Whether it is in the archive.
    pub archived: bool,
    /// The pool that keeps it, if it is a warm task and no job.
    pub warm: Option<String>,
}

impl List {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, location: &Location, screen: &mut Screen) -> Result<(), Failure> {
        let now = Timestamp::now();
        let mut newest = Newest::new(if self.archived { self.limit } else { 0 });
        let mut baseline = Baseline::default();
        // The archive is read once for both.
        archive::for_each(&location.store, |name, summary| {
            if summary.is_job() {
                baseline.add(&summary.definition, &summary.longest);
            }
            if newest.limit > 0 {
                newest.offer(name, summary);
            }
        })?;
        baseline.sort();
        let mut rows = unfinished_rows(location, &baseline, now)?;
        if self.stuck {
            rows.retain(|row| row.stuck.is_some());
        }
        let left_out = newest.left_out;
        rows.extend(newest.into_rows());
        let mut printer: Box<dyn Printer> = if self.json {
            Box::new(Json::default())
        } else {
            Box::new(Table::new(self.stuck, now))
        };
        for row in rows {
            printer.row(row, screen)?;
        }
        if self.archived && self.limit == 0 {
            // Jobs are printed as they are read: sorting would keep them all in memory.
            let mut written = Ok(());
            archive::for_each(&location.store, |name, summary| {
                if written.is_ok() {
                    written = printer.row(Row::archived(name, summary), screen);
                }
            })?;
            written?;
        }
        printer.end(left_out, screen)?;
        Ok(screen.flush()?)
    }
}

/// Prints rows, one after the other.
trait Printer {
    fn row(&mut self, row: Row, screen: &mut Screen) -> io::Result<()>;
    fn end(&mut self, left_out: usize, screen: &mut Screen) -> io::Result<()>;
}

/// Returns the jobs that are not finished, those that need help first.
fn unfinished_rows(
    location: &Location,
    baseline: &Baseline,
    now: Timestamp,
) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for id in location.store.jobs()? {
        let path = location.store.snapshot_path(&id);
        rows.extend(unfinished_row(&path, &location.manager, baseline, now));
    }
    rows.sort_by_key(|row| (urgency(row), Reverse(row.in_state_ms)));
    Ok(rows)
}

/// Returns a job's row; `None` if the job has just ended.
fn unfinished_row(path: &Path, manager: &str, baseline: &Baseline, now: Timestamp) -> Option<Row> {
    let snapshot = match location::read(path) {
        Ok(snapshot) => snapshot,
        Err(_) if !path.exists() => return None,
        Err(e) => return Some(unusable_row(path, &unusable_reason(path, &e), now)),
    };
    let surroundings = holder::examine(path, &snapshot, manager);
    Some(open_row(path, &snapshot, &surroundings, baseline, now).0)
}

/// Returns the row of a job that is not archived, and what is wrong with it.
pub(crate) fn open_row(
    path: &Path,
    snapshot: &Snapshot,
    surroundings: &Surroundings,
    baseline: &Baseline,
    now: Timestamp,
) -> (Row, Vec<Diagnosis>) {
    let (summary, diagnoses) = Summary::of(snapshot, surroundings, now);
    let mut row =
        Row::of(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), &summary);
    row.in_state_ms = now.as_millis().saturating_sub(summary.since);
    row.stuck = if words::ends(&snapshot.job) {
        // For GitLab, the job is over. It needs help only if its task does not end, or if no
        // process looks at it.
        diagnoses
            .iter()
            .find(|diagnosis| diagnosis.cause == Cause::StopUnfinished)
            .map(|diagnosis| diagnosis.summary.clone())
    } else {
        match (snapshot.job.header().warm(), &snapshot.job) {
            (Some(origin), AnyJob::Reachable(_)) => overdue(origin, snapshot, now),
            _ => stuck_reason(&row, surroundings, baseline, now),
        }
    };
    row.worked_on_by =
        if let Holder::Working(who) = &surroundings.holder { Some(who.clone()) } else { None };
    if row.stuck.is_some() && row.cause == Cause::Nothing {
        row.cause = diagnoses.first().map_or(Cause::Unknown, |diagnosis| diagnosis.cause);
    }
    (row, diagnoses)
}

/// Returns why a snapshot cannot be used, in a sentence.
pub(crate) fn unusable_reason(path: &Path, error: &LocationError) -> String {
    let why = match error {
        LocationError::Bad { why, .. } => why.to_string(),
        LocationError::Unreadable { source, .. } => source.to_string(),
        e => e.to_string(),
    };
    format!("{}: {why}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the row of a snapshot that cannot be used: it needs help, and must not hide the others.
pub(crate) fn unusable_row(path: &Path, why: &str, now: Timestamp) -> Row {
    Row {
        snapshot: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        project: String::new(),
        pipeline: String::new(),
        job: "?".to_owned(),
        name: String::new(),
        task_definition: String::new(),
        began: now,
        state: None,
        in_state_ms: 0,
        last_at: now,
        last: why.to_owned(),
        verdict: JobVerdict::Open,
        exit_code: None,
        cause: Cause::Unknown,
        stuck: Some(why.to_owned()),
        worked_on_by: None,
        archived: false,
        warm: None,
    }
}

/// Returns why a warm task that is ready needs help, if it does: it waits for a job, for as long as
/// its pool keeps it.
fn overdue(origin: &WarmOrigin, snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    let age = now.since(snapshot.job.header().created);
    (age > origin.max_age + RETIRED_WITHIN)
        .then(|| format!("its pool keeps it for {} only", words::span(origin.max_age)))
}

/// Returns why the job needs help, if it does.
fn stuck_reason(
    row: &Row,
    surroundings: &Surroundings,
    baseline: &Baseline,
    now: Timestamp,
) -> Option<String> {
    let state = row.state?;
    let idle = now.since(row.last_at);
    if let Holder::NoProcess(_) = surroundings.holder {
        let between_stages = matches!(state, StateName::Reachable | StateName::Stopping);
        if !between_stages {
            return Some("its driver's process is gone".to_owned());
        }
        if idle >= baseline.threshold(&row.task_definition, StateName::Reachable) {
            return Some("no process runs its next stage".to_owned());
        }
    }
    let threshold = baseline.threshold(&row.task_definition, state);
    let lasted = Duration::from_millis(row.in_state_ms);
    (lasted > threshold).then(|| format!("{state} for longer than {}", words::span(threshold)))
}

/// Returns how urgently a job needs help: the lower, the more.
pub(crate) fn urgency(row: &Row) -> u8 {
    match (&row.stuck, row.cause) {
        (Some(_), Cause::DriverGone | Cause::DiskFull) => 0,
        (Some(_), _) => 1,
        // It is over, and is archived without help.
        (None, _) if row.verdict != JobVerdict::Open => 4,
        (None, Cause::Nothing) => 3,
        (None, _) => 2,
    }
}

impl Row {
    /// Creates a row from a summary.
    fn of(snapshot: String, summary: &Summary<'_>) -> Self {
        let warm = match &summary.pool {
            Some(PoolUse::Warm { pool, .. }) => Some(pool.clone().into_owned()),
            _ => None,
        };
        Self {
            snapshot,
            project: summary.project.clone().into_owned(),
            pipeline: summary.pipeline.clone().into_owned(),
            job: summary.job.clone().into_owned(),
            name: summary.name.clone().into_owned(),
            task_definition: summary.definition.clone().into_owned(),
            began: Timestamp::from_millis(summary.began),
            state: Some(summary.state),
            in_state_ms: u64::try_from(summary.length().as_millis()).unwrap_or(u64::MAX),
            last_at: Timestamp::from_millis(summary.newest),
            last: summary.last.clone().into_owned(),
            verdict: summary.verdict,
            exit_code: summary.exit,
            cause: summary.cause,
            stuck: None,
            worked_on_by: None,
            archived: false,
            warm,
        }
    }

    /// How the job ended, or is doing, in a few words.
    #[must_use]
    pub fn outcome(&self) -> String {
        match (self.verdict, self.cause) {
            (JobVerdict::Failed, _) => {
                self.exit_code.map_or_else(|| "failed".to_owned(), |code| format!("exit {code}"))
            }
            (JobVerdict::Open, Cause::Nothing) if self.stuck.is_some() => "slow".to_owned(),
            (JobVerdict::Open, Cause::Nothing) => "goes on".to_owned(),
            (JobVerdict::Open | JobVerdict::SystemFailure, cause) => cause.name(),
            (verdict, _) => verdict.words().to_owned(),
        }
    }

    /// The colour of [`Row::outcome`].
    #[must_use]
    pub fn tone(&self) -> Tone {
        match (self.verdict, self.cause) {
            (JobVerdict::Success | JobVerdict::Open, Cause::Nothing) if self.stuck.is_none() => {
                Tone::Good
            }
            (JobVerdict::SystemFailure | JobVerdict::Open, _) => Tone::Bad,
            _ => Tone::Warn,
        }
    }

    /// Creates the row of a finished job.
    fn archived(name: &str, summary: &Summary<'_>) -> Self {
        Self { archived: true, ..Self::of(name.trim_end_matches(".ron").to_owned(), summary) }
    }
}

/// Keeps the newest of many finished jobs, up to a limit.
pub(crate) struct Newest {
    limit: usize,
    left_out: usize,
    kept: BinaryHeap<Reverse<EndedRow>>,
}

/// A row with the time when its job ended, by which it is ordered.
struct EndedRow(u64, Row);

impl PartialEq for EndedRow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for EndedRow {}
impl PartialOrd for EndedRow {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for EndedRow {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0).then_with(|| self.1.snapshot.cmp(&other.1.snapshot))
    }
}

impl Newest {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, left_out: 0, kept: BinaryHeap::new() }
    }

    pub(crate) fn offer(&mut self, name: &str, summary: &Summary<'_>) {
        let full = self.kept.len() >= self.limit;
        if full {
            self.left_out += 1;
            if self.kept.peek().is_none_or(|Reverse(oldest)| oldest.0 >= summary.newest) {
                return;
            }
            self.kept.pop();
        }
        self.kept.push(Reverse(EndedRow(summary.newest, Row::archived(name, summary))));
    }

    /// Returns the rows, the newest first.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(EndedRow(_, row))| row).collect()
    }
}

/// Prints rows as a JSON array.
#[derive(Default)]
struct Json {
    begun: bool,
}

impl Printer for Json {
    fn row(&mut self, row: Row, screen: &mut Screen) -> io::Result<()> {
        write!(screen, "{}  ", if self.begun { ",\n" } else { "[\n" })?;
        self.begun = true;
        screen.write_all(printable_json(&serde_json::to_string(&row)?).as_bytes())?;
        Ok(())
    }

    fn end(&mut self, _left_out: usize, screen: &mut Screen) -> io::Result<()> {
        writeln!(screen, "{}", if self.begun { "\n]" } else { "[]" })
    }
}
