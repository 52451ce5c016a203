//! `show`: a report of one job.

mod html;
mod journal;
mod terminal;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use diagnosis::{
    Diagnosis, Holder, Surroundings,
    costs::{Bill, Peak, Prices},
    diagnose,
    timeline::{StateSpan, Timeline, number},
    words,
};
use maud::{Markup, html};
use states::{AnyJob, Snapshot, StateName, Timestamp};

#[cfg(test)]
pub(crate) use self::html::ROWS;
use crate::{
    Failure, FoundSnapshot, Location, Locator, Screen,
    baseline::{Baseline, Lengths},
    holder::{self, manager},
    page,
    prices::PricesError,
    screen::Tone,
};

/// `fargate-replay show`.
#[derive(Debug, Args)]
pub struct Show {
    /// A GitLab job id, a snapshot's name in the directory, or a file
    #[arg(value_name = "JOB|FILE")]
    job: String,
    /// Show every entry of the journal, not only those that matter
    #[arg(long)]
    all: bool,
    /// Write a page with the timeline as a picture instead; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What `show` reports of a job.
pub struct Report {
    /// The job and its journal.
    pub snapshot: Snapshot,
    /// The job's stays in states, from the journal.
    pub timeline: Timeline,
    /// What is known beside the snapshot.
    pub surroundings: Surroundings,
    /// What is wrong, the most important first.
    pub diagnoses: Vec<Diagnosis>,
    /// How long finished jobs stayed in each state, if there is an archive.
    pub baseline: Arc<Baseline>,
    /// The prices for the job's costs.
    pub prices: Result<Prices, PricesError>,
    /// The time that the report is of.
    pub now: Timestamp,
    /// Whether the report has every entry of the journal.
    pub all: bool,
}

impl Report {
    /// Diagnoses a job and puts the report together.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        surroundings: Surroundings,
        baseline: impl Into<Arc<Baseline>>,
        now: Timestamp,
    ) -> Self {
        let timeline = Timeline::of(&snapshot, now);
        let diagnoses = diagnose(&snapshot, &timeline, &surroundings, now);
        Self {
            snapshot,
            timeline,
            surroundings,
            diagnoses,
            baseline: baseline.into(),
            prices: Ok(Prices::built_in()),
            now,
            all: false,
        }
    }

    /// Reports on a job that was found. `manager` is the name of the runner manager here.
    #[must_use]
    pub fn of_found(
        found: FoundSnapshot,
        baseline: impl Into<Arc<Baseline>>,
        manager: &str,
    ) -> Self {
        let mut surroundings = if found.archived {
            holder::elsewhere(&found.snapshot)
        } else {
            holder::examine(&found.path, &found.snapshot, manager)
        };
        if let (Some(location), AnyJob::Executing(job)) = (&found.location, &found.snapshot.job) {
            surroundings.handed_on = location.store.read_mark(&job.header.id, &job.state.order.run);
        }
        // The job that a copy shows goes no further than its last entry.
        let now =
            if found.location.is_some() { Timestamp::now() } else { last_seen(&found.snapshot) };
        let prices =
            found.location.as_ref().map_or_else(|| Ok(Prices::built_in()), Location::prices);
        Self { prices, ..Self::new(found.snapshot, surroundings, baseline, now) }
    }

    /// Returns the job's name, project and pipeline.
    fn title(&self) -> String {
        let header = self.snapshot.job.header();
        if let Some(origin) = header.warm() {
            return format!("Warm task {} of the pool {}", header.id, origin.pool);
        }
        let about = &header.about;
        let name = if about.job_name.is_empty() {
            String::new()
        } else {
            format!(" \"{}\"", about.job_name)
        };
        format!(
            "Job {}{name} of {}, pipeline {}",
            about.job_id,
            words::project(&about.project_url),
            about.pipeline_id
        )
    }

    /// Returns the labelled lines below the title.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let Self { snapshot, timeline, .. } = self;
        let spec = &snapshot.job.header().spec;
        let current = timeline.current();
        let state = if words::ends(&snapshot.job) {
            format!("{}, over for GitLab after {}", current.state, words::span(timeline.length()))
        } else if timeline.over {
            format!("over after {}", words::span(timeline.length()))
        } else {
            format!(
                "{} for {}, {} in all",
                current.state,
                words::span(current.length()),
                words::span(timeline.length())
            )
        };
        let stage = current.stage.as_ref().map(|stage| format!(" ({stage})")).unwrap_or_default();
        let mut facts = vec![
            ("state", format!("{state}{stage}; began {}", words::date(timeline.begin()))),
            (
                "runs as",
                format!("task definition {} in cluster {}", spec.task_definition, spec.cluster),
            ),
        ];
        if let Some(additions) = &spec.additions {
            facts.extend(additions.job.as_ref().map(|job| ("image", job.image.name.clone())));
            let images: Vec<&str> =
                additions.services.iter().map(|service| service.image.name.as_str()).collect();
            if !images.is_empty() {
                facts.push(("services", images.join(", ")));
            }
        }
        facts.extend(snapshot.job.task().map(|task| ("task", task.to_string())));
        facts.extend(manager(snapshot).map(|manager| ("manager", manager.to_owned())));
        if words::ends(&snapshot.job) && self.surroundings.is_here() {
            facts.push(("waits for", words::next(&snapshot.job, timeline.newest)));
        }
        facts.extend(self.costs());
        if timeline.over {
            return facts;
        }
        let driver = match &self.surroundings.holder {
            Holder::Working(who) => who.clone(),
            Holder::NoProcess(_) => "nobody".to_owned(),
            Holder::Elsewhere(host) => format!("not to be seen from here, only on {host}"),
        };
        let idle = self.now.since(timeline.newest);
        facts.extend([
            ("driver", driver),
            ("waits for", words::next(&self.marked(), timeline.newest)),
            ("last entry", format!("{} ago", words::span(idle))),
        ]);
        facts
    }

    /// Returns the lines about the job's costs, and what of that it uses.
    fn costs(&self) -> Vec<(&'static str, String)> {
        let is_over = self.timeline.over || words::ends(&self.snapshot.job);
        let until = if is_over { self.timeline.newest } else { self.now };
        let Some(bill) = Bill::of(&self.snapshot, until) else { return Vec::new() };
        let cost = match &self.prices {
            Ok(prices) => bill.in_words(prices),
            Err(e) => format!("not known: {e}"),
        };
        let peak = Peak::of(&self.snapshot, &bill).map(|peak| {
            let hint = peak.hint(bill.size).map(|hint| format!(": {hint}")).unwrap_or_default();
            ("use", format!("{}{hint}", peak.in_words(bill.size)))
        });
        std::iter::once(("cost", cost)).chain(peak).collect()
    }

    /// Returns the job as the next process that works on it finds it.
    fn marked(&self) -> AnyJob {
        let mut job = self.snapshot.job.clone();
        if let (AnyJob::Executing(job), Some(handed_on)) = (&mut job, self.surroundings.handed_on) {
            job.state.offset = job.state.offset.max(handed_on);
            // Output proves that the container took the script.
            job.state.started |= handed_on > 0;
        }
        job
    }

    /// Whether the job's longest stay in the state is longer than 95 % of all such stays.
    fn is_slow(&self, state: StateName) -> bool {
        let p95 = self.percentile(state, 95);
        p95.is_some_and(|p95| {
            self.timeline.longest()[number(state)] > p95.max(Duration::from_secs(1))
        })
    }

    /// Returns the length that `percent` of the stays in the state do not exceed, if it is known.
    fn percentile(&self, state: StateName, percent: usize) -> Option<Duration> {
        self.lengths(state)?.percentile(percent)
    }

    /// Returns the stays in the state that this job's are compared with.
    fn lengths(&self, state: StateName) -> Option<&Lengths> {
        self.baseline.lengths(self.task_definition(), state)
    }

    fn task_definition(&self) -> &str {
        &self.snapshot.job.header().spec.task_definition
    }

    /// Makes the report as a page. `links` come below its title.
    #[must_use]
    pub fn page(&self, links: &Markup) -> Markup {
        html::page(self, links)
    }

    /// Prints the report.
    ///
    /// # Errors
    /// When the screen cannot be written to.
    pub fn print(&self, screen: &mut Screen) -> std::io::Result<()> {
        terminal::print(self, screen)
    }
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, locator: &Locator<'_>, screen: &mut Screen) -> Result<(), Failure> {
        let found = locator.find(&self.job)?;
        // A copy is compared with the archive that is here, if there is one.
        let location = found.location.clone().or_else(|| locator.open().ok());
        let baseline = match &location {
            Some(location) => Baseline::from_archive(&location.store)?,
            None => Baseline::default(),
        };
        let manager = locator.manager(location.as_ref());
        let mut report = Report::of_found(found, baseline, &manager);
        report.all = self.all;
        match &self.html {
            Some(file) => page::write(report.page(&html! {}), file, screen),
            None => Ok(report.print(screen)?),
        }
    }
}

/// Returns a run's outcome in words, and its tone.
fn outcome(span: &StateSpan, over: bool) -> (String, Tone) {
    let text = span
        .outcome
        .as_ref()
        .map_or_else(|| if over { "no end".to_owned() } else { "runs".to_owned() }, words::outcome);
    let tone = match text.as_str() {
        "ok" => Tone::Good,
        "runs" => Tone::State(number(span.state)),
        _ => Tone::Bad,
    };
    (text, tone)
}

/// Returns the time of the snapshot's last entry: the time that a report of a copy is of.
#[must_use]
pub fn last_seen(snapshot: &Snapshot) -> Timestamp {
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    newest.unwrap_or(snapshot.job.header().created)
}
