//! Credentials, and this machine's clock, which signatures depend on.

use std::time::{Duration, SystemTime};

use states::{ControlCause, ControlErrorKind as Kind};

use super::{Check, Examination, Problem};

/// From this difference on, in seconds, the clock is worth a warning.
const DRIFT: u64 = 30;
/// From this difference on, in seconds, AWS refuses signatures (AWS General Reference, Signature
/// Version 4: five minutes).
const REFUSED: u64 = 300;

impl Examination<'_> {
    /// Checks credentials and clock. Returns whether calls make sense.
    pub(super) async fn check_credentials(&mut self) -> bool {
        const CHECK: Check = Check::Credentials;
        if self.region.is_empty() {
            self.report.found(CHECK, Problem::NoRegion, []);
            return false;
        }
        let validity = match self.control.validity().await {
            Ok(validity) => validity,
            Err(error) => {
                let why = error.message.split_once(": ").map_or(&*error.message, |(_, why)| why);
                self.report.found(CHECK, Problem::NoCredentials, [why.to_owned()]);
                return false;
            }
        };
        let answer = match self.control.whoami().await {
            Ok(answer) => answer,
            // STS may have no endpoint in a VPC without a way out, where jobs run nevertheless.
            Err(error) => {
                self.unanswered += 1;
                self.report.refused(CHECK, &error);
                self.report.unknown(Check::Clock, "AWS does not answer.");
                return error.cause != ControlCause::NoEndpoint;
            }
        };
        self.check_clock(answer.ahead);
        let identity = match answer.identity {
            Ok(identity) => identity,
            Err(error) if error.kind == Kind::Credentials => {
                self.report.found(CHECK, Problem::CredentialsRefused, [error.message]);
                return false;
            }
            // A proxy or a policy of the organization, maybe: other calls may succeed.
            Err(error) => {
                self.report.refused(CHECK, &error);
                return true;
            }
        };
        if identity.arn.ends_with(":root") {
            self.report.found(CHECK, Problem::RootCredentials, [identity.arn.clone()]);
        }
        if validity.is_fixed_session {
            self.report.found(CHECK, Problem::FixedSession, []);
        }
        self.check_accounts(&identity.account);
        if self.report.is_clean(CHECK) {
            let until = validity.expiry.map_or_else(String::new, until);
            self.report.pass(CHECK, format!("{}{until}.", identity.arn));
        }
        self.identity = Some(identity);
        true
    }

    fn check_clock(&mut self, ahead: Option<i64>) {
        const CHECK: Check = Check::Clock;
        let Some(ahead) = ahead else {
            return self.report.unknown(CHECK, "AWS's answer has no date.");
        };
        let (off, direction) =
            (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
        let facts = || [off.to_string(), direction.to_owned()];
        match off {
            REFUSED.. => self.report.found(CHECK, Problem::ClockWrong, facts()),
            DRIFT.. => self.report.found(CHECK, Problem::ClockDrifts, facts()),
            _ => self.report.pass(CHECK, format!("It differs from AWS's by {off} s.")),
        }
    }

    /// Compares the accounts in ARNs of the configuration with the credentials'.
    fn check_accounts(&mut self, account: &str) {
        let fargate = &self.config.fargate;
        for (key, value) in
            [("Cluster", &fargate.cluster), ("TaskDefinition", &fargate.task_definition)]
        {
            let other = value.split(':').nth(4).filter(|_| value.starts_with("arn:"));
            if let Some(other) = other.filter(|other| *other != account) {
                let facts = [format!("{key} {value}"), other.to_owned(), account.to_owned()];
                self.report.found(Check::Credentials, Problem::OtherAccount, facts);
            }
        }
    }
}

fn until(expiry: SystemTime) -> String {
    let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
    let left = Duration::from_secs(left.as_secs() / 60 * 60);
    format!(
        ", until {} (in {})",
        humantime::format_rfc3339_seconds(expiry),
        humantime::format_duration(left)
    )
}
