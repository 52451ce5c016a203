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
    fn install(Settings, &str, Option<Prices>);
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
