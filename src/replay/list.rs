//! `list`: which jobs there are, and which need somebody.

mod table;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use states::{StateName, Timestamp};

use super::{
    Failure, Place, PlaceError, Screen, archive,
    diagnosis::Cause,
    holder::{self, Holder, Surroundings},
    place,
    summary::{Summary, Verdict},
    usual::Usual,
    words,
};

use crate::config::Config;
use table::Table;

/// `fargate-replay list`.
#[derive(Debug, Args)]
pub struct List {
    /// Finished jobs too, the newest first
    #[arg(long)]
    archived: bool,
    /// Only jobs that need somebody: their process is gone, or their state has lasted longer than
    /// is usual
    #[arg(long, conflicts_with = "archived")]
    stuck: bool,
    /// Finished jobs to list at most; 0: all of them, in the order in which they were archived
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// A JSON array for programs; times are RFC 3339, lengths are in milliseconds
    #[arg(long)]
    json: bool,
}

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
    /// When it began.
    pub began: Timestamp,
    /// Its state; `None` when the snapshot cannot be used.
    pub state: Option<StateName>,
    /// How long it has been in it; of a finished job, how long it took.
    pub in_state_ms: u64,
    /// When something was last observed.
    pub last_at: Timestamp,
    /// What that was.
    pub last: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Its last script's exit code.
    pub exit_code: Option<i32>,
    /// What is wrong.
    pub cause: Cause,
    /// Why somebody should look at it.
    pub stuck: Option<String>,
    /// Who works on it.
    pub worked_on_by: Option<String>,
    /// Whether it is in the archive.
    pub archived: bool,
}

impl List {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, place: &Place, screen: &mut Screen) -> Result<(), Failure> {
        let now = Timestamp::now();
        let mut newest = Newest::new(if self.archived { self.limit } else { 0 });
        let mut usual = Usual::default();
        // One reading of the archive serves both.
        archive::visit(&place.store, |name, summary| {
            usual.add(&summary.definition, &summary.longest);
            if newest.limit > 0 {
                newest.offer(name, summary);
            }
        })?;
        usual.settle();
        let mut rows = live(place, &usual, now)?;
        if self.stuck {
            rows.retain(|row| row.stuck.is_some());
        }
        let left_out = newest.left_out;
        rows.extend(newest.rows());
        let mut printer: Box<dyn Printer> = if self.json {
            Box::new(Json::default())
        } else {
            Box::new(Table::new(self.stuck, now))
        };
        for row in rows {
            printer.row(row, screen)?;
        }
        if self.archived && self.limit == 0 {
            // All of them go out as they come: sorting them would mean holding them.
            let mut written = Ok(());
            archive::visit(&place.store, |name, summary| {
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

/// Puts rows out, one after the other.
trait Printer {
    fn row(&mut self, row: Row, screen: &mut Screen) -> io::Result<()>;
    fn end(&mut self, left_out: usize, screen: &mut Screen) -> io::Result<()>;
}

/// The jobs that are not finished, those that need somebody first.
fn live(place: &Place, usual: &Usual, now: Timestamp) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for id in place.store.jobs()? {
        let path = place.store.snapshot_path(&id);
        rows.extend(row(&path, place.config.as_ref(), usual, now));
    }
    rows.sort_by_key(|row| (need(row), Reverse(row.in_state_ms)));
    Ok(rows)
}

/// A job's row; `None` when it ended while we looked.
fn row(path: &Path, config: Option<&Config>, usual: &Usual, now: Timestamp) -> Option<Row> {
    let snapshot = match place::read(path) {
        Ok(snapshot) => snapshot,
        Err(_) if !path.exists() => return None,
        Err(e) => {
            let why = match &e {
                PlaceError::Bad { why, .. } => why.to_string(),
                PlaceError::Unreadable { source, .. } => source.to_string(),
                e => e.to_string(),
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Some(unusable(path, &format!("{name}: {why}"), now));
        }
    };
    let around = holder::look_around(path, &snapshot, config);
    let (summary, found) = Summary::of(&snapshot, &around, now);
    let mut row =
        Row::of(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), &summary);
    row.in_state_ms = now.as_millis().saturating_sub(summary.since);
    row.stuck = if words::ends(&snapshot.job) {
        // It is over for GitLab; only a task that does not end, or that nobody looks at, needs
        // somebody.
        found
            .iter()
            .find(|found| found.cause == Cause::StopUnfinished)
            .map(|found| found.summary.clone())
    } else {
        stuck(&row, &around, usual, now)
    };
    row.worked_on_by =
        if let Holder::Working(who) = &around.holder { Some(who.clone()) } else { None };
    if row.stuck.is_some() && row.cause == Cause::Nothing {
        row.cause = found.first().map_or(Cause::Unknown, |found| found.cause);
    }
    Some(row)
}

/// A snapshot that cannot be used needs somebody, and must not hide the others.
fn unusable(path: &Path, why: &str, now: Timestamp) -> Row {
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
        verdict: Verdict::Open,
        exit_code: None,
        cause: Cause::Unknown,
        stuck: Some(why.to_owned()),
        worked_on_by: None,
        archived: false,
    }
}

/// Why somebody should look at the job, if so.
fn stuck(row: &Row, around: &Surroundings, usual: &Usual, now: Timestamp) -> Option<String> {
    let state = row.state?;
    let idle = now.since(row.last_at);
    if let Holder::NoProcess(_) = around.holder {
        let between_stages = matches!(state, StateName::Reachable | StateName::Stopping);
        if !between_stages {
            return Some("its driver's process is gone".to_owned());
        }
        if idle >= usual.bearable(&row.task_definition, StateName::Reachable) {
            return Some("nobody calls its next stage".to_owned());
        }
    }
    let bearable = usual.bearable(&row.task_definition, state);
    let lasted = Duration::from_millis(row.in_state_ms);
    (lasted > bearable).then(|| format!("{state} for longer than {}", words::span(bearable)))
}

/// Smaller is more urgent.
fn need(row: &Row) -> u8 {
    match (&row.stuck, row.cause) {
        (Some(_), Cause::DriverGone | Cause::DiskFull) => 0,
        (Some(_), _) => 1,
        // It is over, and its archiving is nobody's concern.
        (None, _) if row.verdict != Verdict::Open => 4,
        (None, Cause::Nothing) => 3,
        (None, _) => 2,
    }
}

impl Row {
    /// From a summary.
    fn of(snapshot: String, summary: &Summary<'_>) -> Self {
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
        }
    }

    /// A finished job.
    fn archived(name: &str, summary: &Summary<'_>) -> Self {
        Self { archived: true, ..Self::of(name.trim_end_matches(".ron").to_owned(), summary) }
    }
}

/// The newest of many finished jobs: keeps as many as wanted.
struct Newest {
    limit: usize,
    left_out: usize,
    kept: BinaryHeap<Reverse<Kept>>,
}

/// Ordered by when it ended.
struct Kept(u64, Row);

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Kept {}
impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0).then_with(|| self.1.snapshot.cmp(&other.1.snapshot))
    }
}

impl Newest {
    fn new(limit: usize) -> Self {
        Self { limit, left_out: 0, kept: BinaryHeap::new() }
    }

    fn offer(&mut self, name: &str, summary: &Summary<'_>) {
        let full = self.kept.len() >= self.limit;
        if full {
            self.left_out += 1;
            if self.kept.peek().is_none_or(|Reverse(oldest)| oldest.0 >= summary.newest) {
                return;
            }
            self.kept.pop();
        }
        self.kept.push(Reverse(Kept(summary.newest, Row::archived(name, summary))));
    }

    /// The newest first.
    fn rows(self) -> Vec<Row> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(Kept(_, row))| row).collect()
    }
}

/// An array, an element at a time.
#[derive(Default)]
struct Json {
    begun: bool,
}

impl Printer for Json {
    fn row(&mut self, row: Row, screen: &mut Screen) -> io::Result<()> {
        write!(screen, "{}  ", if self.begun { ",\n" } else { "[\n" })?;
        self.begun = true;
        screen
            .write_all(super::screen::printable_json(&serde_json::to_string(&row)?).as_bytes())?;
        Ok(())
    }

    fn end(&mut self, _left_out: usize, screen: &mut Screen) -> io::Result<()> {
        writeln!(screen, "{}", if self.begun { "\n]" } else { "[]" })
    }
}
