//! The traits through which the engine acts: [`TaskControl`] (ECS, the local cluster),
//! [`Transport`] (SSH, ECS Exec) and [`SnapshotStore`] (a directory).
//!
//! The types of their answers are here too, as they end up in journals: plain, serializable data,
//! without types of an SDK.

mod additions;
mod billing;
mod causes;
mod control;
mod snapshots;
mod transport;

pub use additions::{
    Additions, Architecture, ContainerImage, JOB_CONTAINER, JobContainer, RunContainer,
    ServiceContainer, SharedVolume, TaskSize,
};
pub use billing::{Billing, Usage};
pub use causes::{ConnectCause, ControlCause};
pub use control::{
    Capacity, CapacityProvider, ContainerReport, ControlError, ControlErrorKind, Described,
    LONGEST_CALL, LaunchSpec, NetworkInterface, PUBLIC_KEY_VARIABLE, Seen, StopAnswer, Stopped,
    TaskControl, TaskReport, TaskStatus,
};
pub use snapshots::{EndingJob, SnapshotStore};
pub use transport::{
    ConnectError, ConnectErrorKind, Destination, Greeting, HostIdentity, HostProof, JobShell,
    Login, Readiness, Run, RunError, RunEvent, RunOrder, Session, ShellFacts, Signal, Target,
    Transport, TransportRecord,
};
