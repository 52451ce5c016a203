//! `show`: a job's story.

mod journal;
mod terminal;

use clap::Args;
use states::{Snapshot, Timestamp};

use super::{
    Failure, Place, PlaceArgs, Screen,
    diagnosis::{Diagnosis, diagnose},
    holder::Surroundings,
    story::Story,
    usual::Usual,
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
}

/// All that is told of a job.
pub struct Tale {
    /// The job and its journal.
    pub snapshot: Snapshot,
    /// What happened.
    pub story: Story,
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
        let story = Story::of(&snapshot, now);
        let found = diagnose(&snapshot, &story, &around, now);
        Self { snapshot, story, around, found, usual, now, all: false }
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
        let around = if target.archived {
            Surroundings::unknown(&target.snapshot)
        } else {
            Surroundings::of(&target.path, &target.snapshot, here.as_ref().and_then(|place| place.config.as_ref()))
        };
        // What a copy shows ended with its last entry, whenever it is looked at.
        let now = if target.place.is_some() { Timestamp::now() } else { last_seen(&target.snapshot) };
        let mut tale = Tale::new(target.snapshot, around, usual, now);
        tale.all = self.all;
        Ok(tale.tell(screen)?)
    }
}

/// When a snapshot was last written to: the time of telling of a file that lies somewhere by itself.
#[must_use]
pub fn last_seen(snapshot: &Snapshot) -> Timestamp {
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    newest.unwrap_or(snapshot.job.header().created)
}

fn learn(place: &Place) -> Result<Usual, Failure> {
    Usual::learn(&place.store)
}
