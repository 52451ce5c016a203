//! gitlab-runner's contract with a custom executor: its environment, its exit codes, and the
//! identity of the job. See GitLab's documentation, "Custom executor".

mod contract;
mod environment;
mod identity;
mod response;
mod script;
mod variables;
mod wishes;

pub use diagnosis::stage;

pub use contract::{Contract, ContractError, Verdict};
pub use environment::{SentEnvironment, StageEnvironment};
pub use identity::{Identity, IdentityError, Trust};
pub use response::ResponseError;
pub use script::{prepend, with_variables};
pub use variables::{Variable, Variables};
pub use wishes::{WishedContainer, Wishes, WishesError};
