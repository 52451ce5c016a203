//! What a job has cost so far, for the job log.

use ::replay::prices;
use diagnosis::costs::{Bill, Peak};
use states::{Snapshot, Timestamp};

use super::{JobLog, Session};

/// gitlab-runner's last stage whose output is in the job log. That of `cleanup` is in
/// gitlab-runner's own log.
pub(super) const LAST_STAGE: &str = "cleanup_file_variables";

/// Says in the job log what the job has cost so far, if the administrator wants that.
pub(super) fn report(session: &Session, snapshot: &Snapshot, log: &mut JobLog) {
    if let Some(cost) = in_words(session, snapshot) {
        log.say(&format!("{cost} This is an estimate: the task runs for some seconds more."));
    }
}

/// Says in the driver's log what the job has cost, at its end.
pub(super) fn note(session: &Session, snapshot: &Snapshot) {
    if let Some(cost) = in_words(session, snapshot) {
        tracing::info!("{cost} The task is stopping, which takes some seconds more.");
    }
}

fn in_words(session: &Session, snapshot: &Snapshot) -> Option<String> {
    let settings = &session.configuration().fargate;
    let bill = settings.show_cost.then(|| Bill::of(snapshot, Timestamp::now())).flatten()?;
    let cost = match prices::load(settings.prices.as_deref()) {
        Ok(prices) => bill.in_words(&prices),
        Err(e) => {
            tracing::warn!("{e}");
            "not known, as the runner's file of prices cannot be used".to_owned()
        }
    };
    let peak = Peak::of(snapshot, &bill);
    let used = peak.map(|peak| format!(" The job {}.", peak.in_words(bill.size)));
    Some(format!("Cost: {cost}.{}", used.unwrap_or_default()))
}
