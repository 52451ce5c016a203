//! Which jobs only wait for ECS to end their tasks: a small file beside the snapshot of each, so
//! that a stage of another job finds them without reading any snapshot.
//!
//! A hint, not a record: it is not synced, and it is checked against the snapshot before anything
//! is done.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::StoreError;
use crate::{AnyJob, EndingJob, JobId, Snapshot, TaskArn, private_file};

/// The note's file ending.
pub(super) const NOTE: &str = "ending";
/// More bytes of a note are not read: the cluster's name and a few ARNs.
const LONGEST: u64 = 16 * 1024;

/// Writes the note: the cluster, then the tasks, a line each.
pub(super) fn write(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    let AnyJob::Stopping(job) = &snapshot.job else { return Ok(()) };
    let mut text = format!("{}\n", job.header.spec.cluster);
    for task in job.state.tasks() {
        text.push_str(&format!("{task}\n"));
    }
    // One write: a reader sees all of it or nothing.
    private_file::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(StoreError::io("write", path))
}

/// Reads notes of at most `most` jobs in the directory.
pub(super) fn list(directory: &Path, most: usize) -> Vec<EndingJob> {
    // Whatever cannot be read is found by somebody who reads the snapshots.
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let noted = |name: &str| {
        name.rsplit_once('.')
            .filter(|(_, kind)| *kind == NOTE)
            .and_then(|(job, _)| JobId::new(job).ok())
    };
    let mut jobs: Vec<JobId> =
        entries.flatten().filter_map(|entry| noted(entry.file_name().to_str()?)).collect();
    jobs.sort();
    if jobs.len() > most {
        // Tasks that never end must not keep the others from being looked at.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let turn = usize::try_from(now).unwrap_or_default() % jobs.len();
        jobs.rotate_left(turn);
        jobs.truncate(most);
    }
    jobs.into_iter().filter_map(|job| read(&directory.join(format!("{job}.{NOTE}")), job)).collect()
}

fn read(path: &Path, job: JobId) -> Option<EndingJob> {
    let text = String::from_utf8(private_file::read_up_to(path, LONGEST).ok()?).ok()?;
    let mut lines = text.lines();
    let cluster = lines.next()?.to_owned();
    let tasks = lines.map(TaskArn::new).collect::<Result<Vec<_>, _>>().ok()?;
    (!tasks.is_empty()).then_some(EndingJob { job, cluster, tasks })
}
