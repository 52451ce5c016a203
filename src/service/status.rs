//! `fargate status`: what runs here, and what needs help. It reads the metadata directory alone, so
//! it works without a service.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::replay::{
    ColourArg, Failure, Location, Screen,
    list::Row,
    overview::{OpenJob, Overview, Scanner},
    screen::{Tone, cause_tone, printable_json, wrap},
    summary::JobVerdict,
};
use diagnosis::{Diagnosis, timeline::STATES, words};
use serde::Serialize;
use states::{Exposed, Exposure, StoreError, Timestamp, foreign_text::tame};

use super::{
    socket_path,
    source::{Pool, check_writable, pools_of},
};
use crate::warm;

/// Stuck jobs that are explained in the text, at most.
const EXPLAINED: usize = 20;

/// The problem of a pool that no process fills.
const NO_SERVICE: &str = "It is not kept: no service runs here. Start `fargate serve`.";

/// The exit code if something needs help.
pub const PROBLEMS: u8 = 1;
/// The exit code if the state cannot be read.
pub const UNKNOWN: u8 = 2;

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    manager: &'a str,
    directory: &'a Path,
    /// Why jobs cannot be worked on.
    problem: Option<&'a str>,
    service: &'a Service,
    /// Jobs that are not archived, by state.
    jobs: BTreeMap<String, usize>,
    /// Jobs whose snapshots cannot be used.
    unreadable: usize,
    stuck: Vec<Stuck<'a>>,
    /// Finished jobs in the archive.
    archived: BTreeMap<JobVerdict, u64>,
    /// Pools of warm tasks.
    pools: Vec<PoolStatus<'a>>,
}

/// A pool of warm tasks, in the output of `--json`.
#[derive(Debug, Serialize)]
struct PoolStatus<'a> {
    name: &'a str,
    wanted: u64,
    ready: u64,
    starting: u64,
    /// Why it has fewer tasks than it should.
    problem: Option<&'a str>,
}

/// A job that needs help, in the output of `--json`.
#[derive(Debug, Serialize)]
struct Stuck<'a> {
    #[serde(flatten)]
    row: &'a Row,
    waits_for: &'a str,
    diagnoses: Vec<&'a Diagnosis>,
}

/// The service of this directory.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Service {
    socket: PathBuf,
    /// Whether a process listens at the socket.
    running: bool,
}

impl Service {
    fn of(directory: &Path) -> Self {
        let socket = socket_path(directory);
        let running = UnixStream::connect(&socket).is_ok();
        Self { socket, running }
    }
}

/// Prints the status of a directory, whose manager has these `pools` of warm tasks. The exit code is
/// 0 if all is well, and [`PROBLEMS`] if not.
///
/// # Errors
/// When the directory cannot be read, or the output cannot be written.
pub fn run(location: Location, pools: &[warm::Pool], json: bool) -> Result<ExitCode, Failure> {
    let mut screen = Screen::stdout(ColourArg::Auto);
    let is_well = print(location, pools, json, &mut screen)?;
    screen.flush()?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

fn print(
    location: Location,
    configured: &[warm::Pool],
    json: bool,
    screen: &mut Screen,
) -> Result<bool, Failure> {
    let problem = problem(&location);
    let service = Service::of(location.store.directory());
    let overview = Scanner::new(location).scan(Timestamp::now())?;
    let mut pools = pools_of(&overview, configured);
    if !service.running {
        for pool in pools.iter_mut().filter(|pool| pool.wanted > 0) {
            pool.problem = Some(NO_SERVICE.to_owned());
        }
    }
    let is_well = problem.is_none()
        && overview.stuck().next().is_none()
        && pools.iter().all(|pool| pool.problem.is_none());
    if json {
        let status = Status::of(&overview, problem.as_deref(), &service, &pools);
        let json = serde_json::to_string_pretty(&status).map_err(io::Error::from)?;
        screen.write_all(printable_json(&json).as_bytes())?;
        writeln!(screen)?;
    } else {
        print_text(&overview, problem.as_deref(), &service, &pools, screen)?;
    }
    Ok(is_well)
}

/// Returns why jobs cannot be worked on.
fn problem(location: &Location) -> Option<String> {
    match location.store.refuse_exposed() {
        // Root looks at another user's jobs, whose driver does not run as root.
        Ok(())
        | Err(StoreError::Exposed {
            exposed: Exposed { exposure: Exposure::Owner { user: 0, .. }, .. },
            ..
        }) => check_writable(location.store.directory()).err(),
        Err(e) => Some(e.to_string()),
    }
}

impl<'a> Status<'a> {
    fn of(
        overview: &'a Overview,
        problem: Option<&'a str>,
        service: &'a Service,
        pools: &'a [Pool],
    ) -> Self {
        let stuck = overview.stuck().map(|job| Stuck {
            row: &job.row,
            waits_for: &job.waits_for,
            diagnoses: job.problems().collect(),
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            manager: &overview.manager,
            directory: &overview.directory,
            problem,
            service,
            jobs: STATES
                .into_iter()
                .map(|state| (state.to_string(), overview.in_state(Some(state)).count()))
                .collect(),
            unreadable: overview.in_state(None).count(),
            stuck: stuck.collect(),
            archived: overview.finished.verdicts.clone(),
            pools: pools.iter().map(PoolStatus::of).collect(),
        }
    }
}

impl<'a> PoolStatus<'a> {
    fn of(pool: &'a Pool) -> Self {
        let Pool { wanted, ready, starting, .. } = *pool;
        Self { name: &pool.name, wanted, ready, starting, problem: pool.problem.as_deref() }
    }
}

fn print_text(
    overview: &Overview,
    problem: Option<&str>,
    service: &Service,
    pools: &[Pool],
    screen: &mut Screen,
) -> io::Result<()> {
    let directory = overview.directory.display().to_string();
    line(
        screen,
        "manager",
        &format!("{}, fargate {}", overview.manager, env!("CARGO_PKG_VERSION")),
    )?;
    line(screen, "directory", &directory)?;
    if let Some(problem) = problem {
        paragraph(screen, 2, Tone::Bad, problem)?;
    }
    let running = if service.running { "running" } else { "none: each stage works by itself" };
    line(screen, "service", running)?;
    line(screen, "jobs", &by_state(overview))?;
    for pool in pools {
        let Pool { name, wanted, ready, starting, .. } = pool;
        let starting = if *starting > 0 { format!(", {starting} starting") } else { String::new() };
        line(screen, "warm", &format!("{name}: {ready} of {wanted} ready{starting}"))?;
        if let Some(problem) = &pool.problem {
            paragraph(screen, 2, Tone::Bad, problem)?;
        }
    }
    let finished = &overview.finished.verdicts;
    if !finished.is_empty() {
        let counts: Vec<String> = JobVerdict::ALL
            .into_iter()
            .filter_map(|verdict| Some(format!("{} {}", finished.get(&verdict)?, verdict.words())))
            .collect();
        line(screen, "archived", &counts.join(", "))?;
    }
    let stuck: Vec<&OpenJob> = overview.stuck().collect();
    if stuck.is_empty() {
        return line(screen, "stuck", "none");
    }
    line(screen, "stuck", &stuck.len().to_string())?;
    for job in stuck.iter().take(EXPLAINED) {
        print_stuck(job, screen)?;
    }
    if stuck.len() > EXPLAINED {
        let more =
            format!("{} more: `fargate-replay list --stuck` has all.", stuck.len() - EXPLAINED);
        paragraph(screen, 2, Tone::Faint, &more)?;
    }
    paragraph(screen, 2, Tone::Faint, "`fargate-replay show JOB` says what helps.")
}

fn by_state(overview: &Overview) -> String {
    let unreadable = overview.in_state(None).count();
    let states = STATES.into_iter().filter_map(|state| {
        let jobs = overview.in_state(Some(state)).count();
        let oldest = overview.oldest(state)?;
        Some(format!("{jobs} {state} (up to {})", words::span(oldest)))
    });
    let unreadable = (unreadable > 0).then(|| format!("{unreadable} unreadable"));
    let counts: Vec<String> = states.chain(unreadable).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

fn print_stuck(job: &OpenJob, screen: &mut Screen) -> io::Result<()> {
    let row = &job.row;
    let Some(state) = row.state else {
        return paragraph(screen, 2, Tone::Bad, row.stuck.as_deref().unwrap_or_default());
    };
    let span = words::span(job.in_state());
    let project = words::project(&row.project);
    let head = format!("{} {} of {project}: {state} for {span}", row.job, row.name);
    paragraph(screen, 2, Tone::Strong, &head)?;
    let mut problems = job.problems().peekable();
    if problems.peek().is_none() {
        return paragraph(screen, 4, Tone::Warn, row.stuck.as_deref().unwrap_or_default());
    }
    for found in problems {
        let tone = cause_tone(found.cause);
        paragraph(screen, 4, tone, &format!("{}: {}", found.cause.name(), found.summary))?;
    }
    Ok(())
}

fn line(screen: &mut Screen, name: &str, value: &str) -> io::Result<()> {
    const NAME_WIDTH: usize = 11;
    let label = screen.paint(Tone::Faint, &format!("{name:NAME_WIDTH$}"));
    let mut lines = wrap(&tame(value), screen.width.saturating_sub(NAME_WIDTH)).into_iter();
    writeln!(screen, "{label}{}", lines.next().unwrap_or_default())?;
    lines.try_for_each(|rest| writeln!(screen, "{:NAME_WIDTH$}{rest}", ""))
}

fn paragraph(screen: &mut Screen, indent: usize, tone: Tone, text: &str) -> io::Result<()> {
    for line in wrap(&tame(text), screen.width.saturating_sub(indent)) {
        let line = screen.paint(tone, &line);
        writeln!(screen, "{:indent$}{line}", "")?;
    }
    Ok(())
}
