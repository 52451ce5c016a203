//! The driver's own tags on a task. A job's launch specification holds them, and so its snapshot.

/// The tag that names a task's job.
pub const JOB_TAG: &str = "fargate-driver:job";
/// The tag that names the pool for which a task was launched, before it had a job.
pub const POOL_TAG: &str = "fargate-driver:pool";
/// The tag that names the runner manager that launched a task.
pub const MANAGER_TAG: &str = "fargate-driver:manager";
/// The tag that names the metadata directory in which the task's job is recorded.
pub const DIRECTORY_TAG: &str = "fargate-driver:directory";
