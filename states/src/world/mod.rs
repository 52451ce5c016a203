//! What the machine needs from the world, as traits: [`TaskControl`] (ECS, the local cluster),
//! [`Transport`] (SSH, ECS Exec) and [`SnapshotStore`] (a directory). The engine acts through these
//! alone.
//!
//! The vocabulary they answer in is here too, because it is what ends up in journals: plain data,
//! serializable, free of any SDK's types.

mod causes;
mod control;
mod snapshots;
mod transport;

pub use causes::{ConnectCause, ControlCause};
pub use control::{
    Capacity, CapacityProvider, ContainerReport, ControlError, ControlErrorKind, Described,
    LONGEST_CALL, LaunchSpec, NetworkInterface, Seen, StopAnswer, Stopped, TaskControl, TaskReport,
    TaskStatus,
};
pub use snapshots::{EndingJob, SnapshotStore};
pub use transport::{
    ConnectError, ConnectErrorKind, Destination, Greeting, HostIdentity, HostProof, Login,
    Readiness, Run, RunError, RunEvent, RunOrder, Session, ShellFacts, Signal, Target, Transport,
    TransportRecord,
};
