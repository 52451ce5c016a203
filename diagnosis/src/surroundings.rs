//! The facts around a snapshot: which process works on the job, and where the snapshot is.

use states::AnyJob;

/// The process that works on a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process holds the job's lock. Contains the lock's text: `process 17 (run build_script)`.
    Working(String),
    /// No process holds the lock. Contains the text of the last holder, if any.
    NoProcess(Option<String>),
    /// The snapshot is not on the runner manager named here, or it is a copy.
    Elsewhere(String),
}

/// Facts that the snapshot does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The process that works on the job.
    pub holder: Holder,
    /// The free space on the snapshot's disk in bytes, if the job is on this host.
    pub free: Option<u64>,
    /// Bytes of the running script's output that were handed on, if the job is on this host. The
    /// snapshot has their number once a second.
    pub handed_on: Option<u64>,
}

impl Surroundings {
    /// Whether the job is on this host: its snapshot is neither archived nor a copy.
    #[must_use]
    pub fn is_here(&self) -> bool {
        !matches!(self.holder, Holder::Elsewhere(_))
    }

    /// Whether a process should be working on the job, but none does.
    ///
    /// In `Reachable`, and while a job waits for `cleanup`, no process works on it between two
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
