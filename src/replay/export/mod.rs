//! `export`: a job in one file for a bug report, with other names, and without secrets.
//!
//! - `names` — which name becomes which;
//! - `text` — names in what AWS, containers and the driver said;
//! - `fields` — what becomes of each field; `reasons` — of errors and of why a job ended.
//!
//! Times, states, exit codes and byte counts stay: the file is a snapshot that `show` and `step`
//! take, and that tells the same as the real one.

mod fields;
mod names;
mod phases;
mod reasons;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, fs, io::Write as _, path::PathBuf};

use clap::Args;
use states::{Entry, Replay, Snapshot, StateDigest};

use self::names::Names;
use super::{Failure, PlaceArgs, Screen, screen::wrap};

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
    pub fn run(&self, place: &PlaceArgs, screen: &mut Screen) -> Result<(), Failure> {
        let (snapshot, about) = anonymous(&place.find(&self.job)?.snapshot);
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

/// The job with other names, and what was done to it in some lines.
#[must_use]
pub fn anonymous(snapshot: &Snapshot) -> (Snapshot, Vec<String>) {
    let mut names = Names::default();
    let header = names.header(snapshot.job.header());
    let entries =
        snapshot.journal.entries.iter().map(|Entry { at, saw, times, last, between, left }| {
            Entry {
                at: *at,
                saw: names.observation(saw),
                times: *times,
                last: *last,
                between: between.clone(),
                left: left.clone(),
            }
        });
    let mut journal = snapshot.journal.clone();
    journal.entries = entries.collect();
    let mut other =
        Snapshot { version: snapshot.version, job: names.job(&snapshot.job, header), journal };
    carry_over(snapshot, &mut other);
    let about = about(snapshot, &names);
    (other, about)
}

/// What the real journal notes of states is true of the real ones. Where today's machine agrees
/// with it, the other journal notes the state that today's machine reaches by it; where it does
/// not, the note stays as it is, and does not agree with the other one either.
fn carry_over(real: &Snapshot, other: &mut Snapshot) {
    let mut agrees = BTreeMap::new();
    let mut replay = Replay::new(real);
    while let Some(step) = replay.advance() {
        agrees.insert(step.entry, step.agrees() == Some(true));
    }
    let ends = replay.ends_where_the_job_did();
    let mut reached = BTreeMap::new();
    let mut replay = Replay::new(other);
    while let Some(step) = replay.advance() {
        // The last of an entry's observations is the one that is noted.
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

fn about(snapshot: &Snapshot, names: &Names) -> Vec<String> {
    let counted = names.counts().map(|(kind, count)| {
        let (one, several) = kind.words();
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
