//! Notes of ending jobs: a small file beside the snapshot of each job that only waits for ECS to
//! end its tasks. A stage of another job finds them without reading snapshots.
//!
//! A note is only a hint. It is not synced, and it is checked against the snapshot before anything
//! is done.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::StoreError;
use crate::{AnyJob, EndingJob, JobId, Snapshot, TaskArn, private_file};

/// The note's file extension.
pub(super) const NOTE: &str = "ending";
/// The largest size of a note, in bytes: the cluster's name and a few ARNs.
const LONGEST: u64 = 16 * 1024;

/// Writes the note: a line for the cluster, and one for each task.
pub(super) fn write(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    let AnyJob::Stopping(job) = &snapshot.job else { return Ok(()) };
    let mut text = format!("{}\n", job.header.spec.cluster);
    for task in job.state.tasks() {
        text.push_str(&format!("{task}\n"));
    }
    // One write, so that a reader sees all of it or nothing.
    private_file::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(StoreError::io("write", path))
}

/// Reads the notes of at most `most` jobs.
pub(super) fn list(directory: &Path, most: usize) -> Vec<EndingJob> {
    // A job whose note cannot be read is found by its snapshot later.
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
        // Tasks that never end must not hide the others.
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
