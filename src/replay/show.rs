//! `show`: a job's story.

mod journal;
mod terminal;

use std::{fs, path::PathBuf};

use clap::Args;
use states::{Snapshot, Timestamp};

use super::{
    Failure, Place, PlaceArgs, Screen,
    diagnosis::{Diagnosis, diagnose},
    holder::Surroundings,
    page,
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
    /// Write the story as one self-contained page instead
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
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
        let around =
            if target.archived { Surroundings::unknown(&target.snapshot) } else { Surroundings::of(&target.path, &target.snapshot) };
        // A lone file is told without a comparison.
        let usual = target.place.as_ref().or(place.resolve().ok().as_ref()).map_or(Ok(Usual::default()), learn)?;
        let mut tale = Tale::new(target.snapshot, around, usual, Timestamp::now());
        tale.all = self.all;
        match &self.html {
            None => Ok(tale.tell(screen)?),
            Some(file) => {
                let fail = |e| Failure::Other(format!("the page {} cannot be written: {e}", file.display()));
                fs::write(file, page::job(&tale)).map_err(fail)
            }
        }
    }
}

fn learn(place: &Place) -> Result<Usual, Failure> {
    Usual::learn(&place.store)
}
