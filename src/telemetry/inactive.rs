//! A build without the feature `telemetry`: nothing is recorded. Its items are those of `stage`,
//! `export` and `job`.

#![allow(missing_docs, unreachable_pub, reason = "as in the modules of the feature")]

use std::path::{Path, PathBuf};

use diagnosis::costs::Prices;
use states::{About, JobId};
use tracing::Span;
use tracing_subscriber::layer::Identity;

use super::Purpose;
use crate::{config::Telemetry, runner::Verdict};

/// A process's work on a job.
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
    fn install(Telemetry, &str, Option<Prices>, Option<PathBuf>);
    fn is_on() -> bool;
    fn enter(&Purpose, Option<&str>, Option<&About>) -> Stage;
    fn root() -> Option<String>;
    fn propagated_variables() -> Vec<(&'static str, String)>;
    fn take_over(&Path) -> bool;
    fn abandon(&Path, &JobId);
    fn end_service();
    fn layer() -> Option<Identity>;
    fn log_export() -> Option<Identity>;
}

pub fn stage_span() -> Span {
    Span::none()
}

pub async fn flush() {}

pub async fn export_in_batches() {}

pub mod job {
    use states::{EngineError, Goal, Outcome, Snapshot};

    use super::{About, Path, Stage};

    nothing! {
        fn opened(&Path, &Snapshot, &str) -> Stage;
        fn closed(Stage, &Result<Outcome, EngineError>, Goal, &Snapshot);
        fn ended(Option<&Snapshot>, &About);
        fn states_of(&Snapshot);
    }
}
