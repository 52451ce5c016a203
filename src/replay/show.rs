//! `show`: a job's story.

mod html;
mod journal;
mod terminal;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use states::{AnyJob, Snapshot, StateName, Timestamp};

#[cfg(test)]
pub(super) use self::html::ROWS;
use super::{
    Failure, Place, PlaceArgs, Screen,
    diagnosis::{Diagnosis, diagnose},
    holder::{self, Holder, Surroundings, manager},
    page,
    screen::Tone,
    timeline::{StateSpan, Timeline, number},
    usual::Usual,
    words,
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

/// All that is told of a job.
pub struct Tale {
    /// The job and its journal.
    pub snapshot: Snapshot,
    /// What happened.
    pub story: Timeline,
    /// What is known beside the snapshot.
    pub around: Surroundings,
    /// What is wrong, the most important first.
    pub found: Vec<Diagnosis>,
    /// What is usual, if there is an archive to learn it from.
    pub usual: Usual,
    /// The time of telling.
    pub now: Timestamp,
    /// Whether all of the journal is told.
    pub all: bool,
}

impl Tale {
    /// Puts together what is told of a job.
    #[must_use]
    pub fn new(snapshot: Snapshot, around: Surroundings, usual: Usual, now: Timestamp) -> Self {
        let story = Timeline::of(&snapshot, now);
        let found = diagnose(&snapshot, &story, &around, now);
        Self { snapshot, story, around, found, usual, now, all: false }
    }

    /// The job's name, project and pipeline.
    fn title(&self) -> String {
        let about = &self.snapshot.job.header().about;
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

    /// What is to be known at once, with its name.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let Self { snapshot, story, .. } = self;
        let spec = &snapshot.job.header().spec;
        let current = story.current();
        let state = if words::ends(&snapshot.job) {
            format!("{}, over for GitLab after {}", current.state, words::span(story.length()))
        } else if story.over {
            format!("over after {}", words::span(story.length()))
        } else {
            format!(
                "{} for {}, {} in all",
                current.state,
                words::span(current.length()),
                words::span(story.length())
            )
        };
        let stage = current.stage.as_ref().map(|stage| format!(" ({stage})")).unwrap_or_default();
        let mut facts = vec![
            ("state", format!("{state}{stage}; began {}", words::date(story.begin()))),
            (
                "runs as",
                format!("task definition {} in cluster {}", spec.task_definition, spec.cluster),
            ),
        ];
        facts.extend(snapshot.job.task().map(|task| ("task", task.to_string())));
        facts.extend(manager(snapshot).map(|manager| ("manager", manager.to_owned())));
        if words::ends(&snapshot.job) && self.around.is_here() {
            facts.push(("waits for", words::next(&snapshot.job, story.newest)));
        }
        if story.over {
            return facts;
        }
        let driver = match &self.around.holder {
            Holder::Working(who) => who.clone(),
            Holder::NoProcess(_) => "nobody".to_owned(),
            Holder::Elsewhere(host) => format!("not to be seen from here, only on {host}"),
        };
        let idle = self.now.since(story.newest);
        facts.extend([
            ("driver", driver),
            ("waits for", words::next(&self.marked(), story.newest)),
            ("last entry", format!("{} ago", words::span(idle))),
        ]);
        facts
    }

    /// The job as whoever takes it up finds it.
    fn marked(&self) -> AnyJob {
        let mut job = self.snapshot.job.clone();
        if let (AnyJob::Executing(job), Some(handed_on)) = (&mut job, self.around.handed_on) {
            job.state.offset = job.state.offset.max(handed_on);
            // There is no output of a script that was not taken.
            job.state.started |= handed_on > 0;
        }
        job
    }

    /// Whether the job's longest stay in the state is longer than 95 % of all such stays.
    fn is_slow(&self, state: StateName) -> bool {
        let usual = self.usual.lengths(&self.snapshot.job.header().spec.task_definition, state);
        usual.and_then(|lengths| lengths.percentile(95)).is_some_and(|p95| {
            self.story.longest()[number(state)] > p95.max(Duration::from_secs(1))
        })
    }

    /// Tells it on a screen.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn tell(&self, screen: &mut Screen) -> std::io::Result<()> {
        terminal::tell(self, screen)
    }
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, place: &PlaceArgs, screen: &mut Screen) -> Result<(), Failure> {
        let target = place.find(&self.job)?;
        // A lone file is compared with the archive that is here, if there is one.
        let here = target.place.clone().or_else(|| place.resolve().ok());
        let usual = here.as_ref().map_or(Ok(Usual::default()), learn)?;
        let mut around = if target.archived {
            holder::unknown(&target.snapshot)
        } else {
            holder::look_around(
                &target.path,
                &target.snapshot,
                here.as_ref().and_then(|place| place.config.as_ref()),
            )
        };
        if let (Some(place), AnyJob::Executing(job)) = (&target.place, &target.snapshot.job) {
            around.handed_on = place.store.read_mark(&job.header.id, &job.state.order.run);
        }
        // What a copy shows ended with its last entry, whenever it is looked at.
        let now =
            if target.place.is_some() { Timestamp::now() } else { last_seen(&target.snapshot) };
        let mut tale = Tale::new(target.snapshot, around, usual, now);
        tale.all = self.all;
        match &self.html {
            Some(file) => page::write(html::page(&tale), file, screen),
            None => Ok(tale.tell(screen)?),
        }
    }
}

/// How a run ended, and what to think of it.
fn outcome(visit: &StateSpan, over: bool) -> (String, Tone) {
    let text = visit
        .outcome
        .as_ref()
        .map_or_else(|| if over { "no end".to_owned() } else { "runs".to_owned() }, words::outcome);
    let tone = match text.as_str() {
        "ok" => Tone::Good,
        "runs" => Tone::State(number(visit.state)),
        _ => Tone::Bad,
    };
    (text, tone)
}

/// When a snapshot was last written to: the time of telling of a file that lies somewhere by
/// itself.
#[must_use]
pub fn last_seen(snapshot: &Snapshot) -> Timestamp {
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    newest.unwrap_or(snapshot.job.header().created)
}

fn learn(place: &Place) -> Result<Usual, Failure> {
    Usual::learn(&place.store)
}
