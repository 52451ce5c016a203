//! `export`: writes a job into one file for a bug report, under pseudonyms and without secrets.
//!
//! - `pseudonyms` — the pseudonym of each name;
//! - `text` — names in free text of AWS, containers and the driver;
//! - `header`, `fields`, `reasons` — the fields of a snapshot.
//!
//! Times, states, exit codes and byte counts stay. The file is a snapshot like any other, and
//! `show` and `step` report the same of it as of the real one.

mod fields;
mod header;
mod phases;
mod pseudonyms;
mod reasons;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, fs, io::Write as _, path::PathBuf};

use clap::Args;
use states::{Entry, Replay, Snapshot, StateDigest};

use self::pseudonyms::Pseudonyms;
use crate::{Failure, Locator, Screen, screen::wrap};

/// `fargate-replay export`.
#[derive(Debug, Args)]
#[command(
    after_help = "The file is a snapshot like any other: `show` and `step` take it. Its first lines say what was replaced and left out. \
                        Names in free text are found by what they look like: read it before you send it."
)]
pub struct Export {
    /// A GitLab job id, a snapshot's name in the directory, or a file
    #[arg(value_name = "JOB|FILE")]
    job: String,
    /// Where to write it; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

impl Export {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, locator: &Locator<'_>, screen: &mut Screen) -> Result<(), Failure> {
        let (snapshot, about) = anonymise(&locator.find(&self.job)?.snapshot);
        let ron = snapshot
            .to_ron()
            .map_err(|e| Failure::Other(format!("the job cannot be written down: {e}")))?;
        let mut text = String::new();
        for line in about.iter().flat_map(|line| wrap(line, 97)) {
            text.push_str(&format!("// {line}\n"));
        }
        text.push_str(&ron);
        text.push('\n');
        if self.output.as_os_str() == "-" {
            screen.write_all(text.as_bytes())?;
        } else {
            fs::write(&self.output, text).map_err(|e| {
                Failure::Other(format!("cannot write {}: {e}", self.output.display()))
            })?;
            writeln!(screen, "wrote {}", self.output.display())?;
            let width = screen.width;
            for line in about.iter().flat_map(|line| wrap(line, width)) {
                writeln!(screen, "{line}")?;
            }
        }
        Ok(screen.flush()?)
    }
}

/// Replaces and leaves out what identifies a job's owner. Also returns lines that say what was
/// done.
#[must_use]
pub fn anonymise(snapshot: &Snapshot) -> (Snapshot, Vec<String>) {
    let mut pseudonyms = Pseudonyms::default();
    let header = pseudonyms.header(snapshot.job.header());
    let entries =
        snapshot.journal.entries.iter().map(|Entry { at, saw, times, last, between, left }| {
            Entry {
                at: *at,
                saw: pseudonyms.observation(saw),
                times: *times,
                last: *last,
                between: between.clone(),
                left: left.clone(),
            }
        });
    let mut journal = snapshot.journal.clone();
    journal.entries = entries.collect();
    let mut other = Snapshot {
        version: snapshot.version,
        job: pseudonyms.job(&snapshot.job, header.into()),
        journal,
    };
    carry_over_digests(snapshot, &mut other);
    let about = about(snapshot, &pseudonyms);
    (other, about)
}

/// Carries over which of the journal's digests of states today's machine agrees with.
///
/// The real digests are of states with real names. Where today's machine agrees with one, the
/// export has the digest of the state that today's machine reaches under pseudonyms. Where it does
/// not, the digest stays, and does not agree with the export either.
fn carry_over_digests(real: &Snapshot, other: &mut Snapshot) {
    let mut agrees = BTreeMap::new();
    let mut replay = Replay::new(real);
    while let Some(step) = replay.advance() {
        agrees.insert(step.entry, step.agrees() == Some(true));
    }
    let ends = replay.ends_where_the_job_did();
    let mut reached = BTreeMap::new();
    let mut replay = Replay::new(other);
    while let Some(step) = replay.advance() {
        // An entry has the digest of the state after its last observation.
        reached.insert(step.entry, StateDigest::of(&step.job));
    }
    let end = replay.job().clone();
    drop(replay);
    for (number, left) in reached {
        if agrees.get(&number) == Some(&true)
            && let Some(entry) = other.journal.entries.get_mut(number - 1)
        {
            entry.left = Some(left);
        }
    }
    if ends == Some(true) {
        other.job = end;
    }
}

fn about(snapshot: &Snapshot, pseudonyms: &Pseudonyms) -> Vec<String> {
    let counted = pseudonyms.counts().map(|(kind, count)| {
        let (one, several) = kind.nouns();
        format!("{count} {}", if count == 1 { one } else { several })
    });
    let header = snapshot.job.header();
    let mut left_out = vec!["the job's key (it is in no snapshot)".to_owned()];
    left_out.extend(header.spec.environment.iter().map(|(name, _)| match name.as_str() {
        "SSH_PUBLIC_KEY" => "the public key".to_owned(),
        _ => "the value of a container's variable".to_owned(),
    }));
    left_out.extend(header.trace.as_ref().map(|_| "the trace's id".to_owned()));
    left_out.push("users, passwords and queries of URLs".to_owned());
    vec![
        format!("A job of fargate-driver for a bug report, exported by fargate-replay {}.", env!("CARGO_PKG_VERSION")),
        format!("Replaced, each name by the same other one wherever it stands: {}.", counted.collect::<Vec<_>>().join(", ")),
        format!("Left out: {}.", left_out.join(", ")),
        "Kept: times, states, exit codes, byte counts, regions, and what AWS and the driver said apart from names.".to_owned(),
    ]
}
