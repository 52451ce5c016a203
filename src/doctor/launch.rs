//! `--launch`: one real job, and where its time went.

use std::{io::Write as _, path::Path};

use super::{Check, Problem, Report};
use crate::{
    local::{self, TimeOptions},
    try_job::{Ended, TryJob},
};

/// It prints nothing: what it printed would be in the report.
const SCRIPT: &str = ":\n";

/// Runs a job with this configuration.
pub(super) async fn check(config: &Path, report: &mut Report) {
    const CHECK: Check = Check::Launch;
    let script = tempfile::NamedTempFile::new().and_then(|mut file| {
        file.write_all(SCRIPT.as_bytes())?;
        Ok(file)
    });
    let script = match script {
        Ok(script) => script,
        Err(e) => return report.unknown(CHECK, format!("No script can be written: {e}.")),
    };
    let job = TryJob {
        scripts: vec![script.path().to_owned()],
        config: Some(config.to_owned()),
        image: None,
        services: Vec::new(),
        images: local::images(),
        transport: None,
        times: TimeOptions { profile: None, scale: 1.0, seed: None },
        flags: Vec::new(),
    };
    let tried = match job.perform().await {
        Ok(tried) => tried,
        Err(e) => return report.unknown(CHECK, format!("No job was started: {e}.")),
    };
    let times: Vec<String> = tried
        .spans
        .iter()
        .map(|(state, took)| format!("{state} {:.1} s", took.as_secs_f64()))
        .collect();
    let times = times.join(", ");
    match tried.ended {
        Ended::Succeeded => report.pass(CHECK, format!("A job ran: {times}.")),
        Ended::Script(_) | Ended::System => {
            report.found(CHECK, Problem::LaunchFailed, [times]);
        }
    }
}
