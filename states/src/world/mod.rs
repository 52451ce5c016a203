//! What the machine needs from the world, as traits: [`TaskControl`] (ECS, the local cluster),
//! [`Transport`] (SSH, ECS Exec) and [`SnapshotStore`] (a directory). The engine acts through these
//! alone.
//!
//! The vocabulary they answer in is here too, because it is what ends up in journals: plain data,
//! serializable, free of any SDK's types.

mod control;
mod snapshots;
mod transport;

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

/// An error's text and its advice, as sentences. Texts of others end with a full stop, or do not.
fn explained(error: &dyn std::error::Error, advice: &str) -> String {
    let text = error.to_string();
    format!("{}. {advice}", text.trim_end_matches('.')).trim_end().to_owned()
}
