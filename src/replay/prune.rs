//! `prune`: what is too old or too much goes from the archive.

use std::{fs, io::Write as _, path::PathBuf, time::Duration};

use clap::Args;

use super::{Failure, Place, Screen};

/// `fargate-replay prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove jobs that ended longer ago than this, such as 7d [default, without --keep: the configuration's]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Remove all but so many of the newest
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    /// Runs the command.
    ///
    /// # Errors
    /// When neither the command line nor a configuration says what to keep, or a file cannot be removed.
    pub fn run(&self, place: &Place, screen: &mut Screen) -> Result<(), Failure> {
        let (age, keep) = match (self.older_than, self.keep, &place.config) {
            (None, None, Some(config)) => (config.metadata.keep, config.metadata.keep_count),
            (None, None, None) => return Err(Failure::Other("say what goes: --older-than, --keep, or a --config".to_owned())),
            (age, keep, _) => (age.unwrap_or(Duration::MAX), keep.unwrap_or(usize::MAX)),
        };
        let mut jobs = Vec::new();
        let archive = place.store.archive_path();
        if archive.is_dir() {
            for entry in fs::read_dir(&archive)? {
                let path: PathBuf = entry?.path();
                // A driver may prune at the same time: what is gone is gone.
                if path.extension().is_some_and(|e| e == "ron")
                    && let Ok(ended) = fs::metadata(&path).and_then(|about| about.modified())
                {
                    jobs.push((ended, path));
                }
            }
        }
        jobs.sort_by(|a, b| b.cmp(a));
        let mut removed = 0;
        for (rank, (ended, path)) in jobs.iter().enumerate() {
            if rank < keep && ended.elapsed().unwrap_or_default() <= age {
                continue;
            }
            if !self.dry_run {
                match fs::remove_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Failure::Other(format!("{} cannot be removed: {e}", path.display())));
                    }
                    _ => {}
                }
            }
            removed += 1;
        }
        let would = if self.dry_run { "would be removed" } else { "removed" };
        writeln!(screen, "{removed} of {} archived jobs {would}", jobs.len())?;
        screen.flush()?;
        Ok(())
    }
}
