//! `fargate.toml`: all its mistakes, and doubtful settings.

use std::{path::Path, time::Duration};

use ::replay::prices;

use super::{Check, Problem, Report};
use crate::config::Config;

/// Tasks start in 20 to 60 s on Fargate, and in more with a large image.
const SHORTEST_START: Duration = Duration::from_secs(60);

/// Checks the text. `None`: it has mistakes.
pub(super) fn check(text: &str, path: &Path, report: &mut Report) -> Option<Config> {
    const CHECK: Check = Check::Configuration;
    let Ok((config, warnings)) = Config::parse(text, path) else {
        for mistake in Config::mistakes(text, path) {
            report.found(CHECK, Problem::WrongSetting, [mistake.to_string()]);
        }
        return None;
    };
    for warning in warnings {
        let line = format!("{}: {warning}", path.display());
        report.found(CHECK, Problem::DoubtfulSetting, [line]);
    }
    if let Some(caution) = config.telemetry.effective().0.caution() {
        report.found(CHECK, Problem::DoubtfulSetting, [caution.to_string()]);
    }
    if config.fargate.allowed_task_definitions.is_none() {
        report.found(CHECK, Problem::OpenTaskDefinitions, []);
    }
    if config.limits.pending < SHORTEST_START {
        let facts = ["Pending".to_owned(), config.limits.pending.as_secs().to_string()];
        report.found(CHECK, Problem::ShortDeadline, facts);
    }
    let fargate = &config.fargate;
    if let Some(error) = prices::load(fargate.prices.as_deref()).err().filter(|_| fargate.show_cost)
    {
        report.found(CHECK, Problem::BadPrices, [error.to_string()]);
    }
    if config.transport.needs_address && fargate.use_public_ip && !fargate.enable_public_ip {
        report.found(CHECK, Problem::NoPublicAddress, []);
    }
    if report.is_clean(CHECK) {
        report.pass(CHECK, format!("{} has no mistakes.", path.display()));
    }
    Some(config)
}
