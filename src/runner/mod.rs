//! gitlab-runner's contract with a custom executor: the environment it gives, the exit codes it
//! wants, and the identity of the job. See GitLab's documentation, "Custom executor".

mod contract;
mod identity;
pub mod stage;

pub use contract::{Contract, ContractError, Verdict};
pub(crate) use identity::hex;
pub use identity::{Identity, IdentityError, job_variable};
