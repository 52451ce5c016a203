//! A build without the feature `telemetry`: nothing is recorded. Its items are those of the other
//! modules.

#![allow(missing_docs, reason = "as in the modules of the feature")]

use std::path::Path;

use bytes::Bytes;
use diagnosis::costs::Prices;
use states::JobId;
use tracing_subscriber::layer::Identity as NoLayer;

use crate::{
    config::Telemetry,
    runner::{Identity, StageEnvironment, Verdict},
};

#[derive(Debug, Default)]
#[must_use]
pub struct Stage(());

impl Stage {
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        work.await
    }

    pub fn leave(self, _: &Verdict, _: bool) {}
}

macro_rules! nothing {
    ($(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)+) => {
        $(pub fn $name($(_: $argument),*) $(-> $result)? {
            Default::default()
        })+
    };
}

nothing! {
    fn install(Telemetry, &str, Option<Prices>, Option<&Path>);
    fn enter(&Path, &Identity, &StageEnvironment, &str, impl FnOnce() -> Option<String>) -> Stage;
    fn root() -> Option<String>;
    fn take_over(&Path) -> bool;
    fn abandon(&Path, &JobId);
    fn end_service();
    fn layer() -> Option<NoLayer>;
    fn log_export() -> Option<NoLayer>;
}

pub fn propagated(script: Bytes) -> Bytes {
    script
}

pub async fn flush() {}

pub async fn export_in_batches() {}

pub mod job {
    use std::path::Path;

    use states::{About, EngineError, Goal, Outcome, Snapshot};

    use super::Stage;

    nothing! {
        fn opened(&Path, &Snapshot, &str) -> Stage;
        fn closed(Stage, &Result<Outcome, EngineError>, Goal, &Snapshot);
        fn ended(Option<&Snapshot>, &About);
        fn states_of(&Snapshot);
    }
}
