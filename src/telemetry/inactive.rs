//! A build without the feature `telemetry`: nothing is recorded. Its items are those of `recorder`,
//! `export`, `logs` and `job`.

#![allow(missing_docs, unreachable_pub, reason = "as in the modules of the feature")]

use std::path::Path;

use diagnosis::costs::Prices;
use states::{About, JobId};
use tracing::{Span, Subscriber};
use tracing_subscriber::{Layer, layer::Identity};

use super::{Purpose, settings::Settings};
use crate::runner::Verdict;

macro_rules! nothing {
    ($(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)+) => {
        $(pub fn $name($(_: $argument),*) $(-> $result)? {
            Default::default()
        })+
    };
}

nothing! {
    fn install(Settings, &str, Option<Prices>, bool);
    fn is_on() -> bool;
    fn enter(&Purpose, Option<&str>, Option<&About>);
    fn leave(&Verdict, bool);
    fn root() -> Option<String>;
    fn propagated_variables() -> Option<Vec<(&'static str, String)>>;
    fn take_over(&Path) -> bool;
    fn abandon(&Path, &JobId);
    fn log_export() -> Option<Identity>;
}

pub fn stage_span() -> Span {
    Span::none()
}

pub use stage_span as log_span;

pub async fn flush() {}

pub async fn in_own_scope<F: Future>(work: F) -> F::Output {
    work.await
}

/// The service's exporter: there is none.
pub enum Batches {}

impl Batches {
    pub fn begin(_: &Path) -> Option<Self> {
        None
    }

    pub async fn end(self) {
        match self {}
    }
}

/// A scope of work on one job.
pub struct Scope;

impl Scope {
    pub fn begin() -> Self {
        Self
    }

    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        work.await
    }

    pub fn let_go(self) {}

    pub fn hand_over(self) {}
}

pub(crate) fn layer<S: Subscriber>() -> Option<impl Layer<S> + use<S>> {
    None::<Identity>
}

pub mod job {
    use states::{EngineError, Goal, Outcome, Snapshot};

    use super::{About, Path};

    nothing! {
        fn opened(&Path, &Snapshot, &str);
        fn closed(&Result<Outcome, EngineError>, Goal, &Snapshot);
        fn ended(Option<&Snapshot>, &About);
        fn states_of(&Snapshot);
    }
}
