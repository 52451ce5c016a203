//! What is known around a snapshot: who works on the job, and where the snapshot lies.

use states::AnyJob;

/// Who works on a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process holds the job's lock; the lock's own words for it, `process 17 (run
    /// build_script)`.
    Working(String),
    /// Nobody holds it. The words that the last holder left, if any.
    NoProcess(Option<String>),
    /// The file is not where its driver works: on another host than the named runner manager, or a
    /// copy.
    Elsewhere(String),
}

/// What is known beside the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Who works on the job.
    pub holder: Holder,
    /// Bytes that can still be written where the snapshot lies, if the job lives here.
    pub free: Option<u64>,
    /// Bytes of the running script's output that are known to have been handed on, if the job
    /// lives here. The snapshot notes them once a second.
    pub handed_on: Option<u64>,
}

impl Surroundings {
    /// Whether the job lives here: its snapshot is neither archived nor a copy.
    #[must_use]
    pub fn is_here(&self) -> bool {
        !matches!(self.holder, Holder::Elsewhere(_))
    }

    /// Whether a process should be working on the job and none does.
    ///
    /// In `Reachable`, and while the end of a job is left to `cleanup`, nobody works between two
    /// stages.
    #[must_use]
    pub fn process_is_gone(&self, job: &AnyJob) -> bool {
        matches!(self.holder, Holder::NoProcess(_))
            && matches!(
                job,
                AnyJob::Provisioning(_)
                    | AnyJob::Pending(_)
                    | AnyJob::Running(_)
                    | AnyJob::Executing(_)
            )
    }
}
