//! `fargate.toml`: all its mistakes, and doubtful settings.

use std::path::Path;

use super::{Check, Problem, Report};
use crate::config::Config;

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
    let fargate = &config.fargate;
    if config.transport.needs_address && fargate.use_public_ip && !fargate.enable_public_ip {
        report.found(CHECK, Problem::NoPublicAddress, []);
    }
    if report.is_clean(CHECK) {
        report.pass(CHECK, format!("{} has no mistakes.", path.display()));
    }
    Some(config)
}
