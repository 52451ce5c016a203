//! Credentials, and this machine's clock, which signatures depend on.

use std::{
    env,
    time::{Duration, SystemTime},
};

use states::{ControlCause, ControlErrorKind as Kind, foreign_text::clipped};

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
        if !is_region(&self.region) {
            self.report.found(CHECK, Problem::NotARegion, [clipped(&self.region)]);
            return false;
        }
        let validity = match self.control.validity().await {
            Ok(validity) => validity,
            Err(error) => {
                let why = error.message.split_once(": ").map_or(&*error.message, |(_, why)| why);
                let why = why.trim_end_matches('.');
                // The SDK passes over a profile that no file has.
                let profile = env::var("AWS_PROFILE").map_or_else(
                    |_| String::new(),
                    |name| format!(" (AWS_PROFILE is {})", clipped(&name)),
                );
                self.report.found(CHECK, Problem::NoCredentials, [format!("{why}{profile}")]);
                return false;
            }
        };
        let answer = match self.control.whoami().await {
            Ok(answer) => answer,
            // STS may have no endpoint in a VPC without a way out, where jobs run nevertheless.
            Err(error) => {
                self.is_unanswered = true;
                self.report.refused(CHECK, &error);
                self.report.unknown(Check::Clock, "AWS does not answer.");
                return error.cause != ControlCause::NoEndpoint;
            }
        };
        self.check_clock(answer.ahead);
        let identity = match answer.identity {
            Ok(identity) => identity,
            Err(error) if error.kind == Kind::Credentials => {
                let said = error.message.trim_end_matches('.').to_owned();
                self.report.found(CHECK, Problem::CredentialsRefused, [said]);
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

    /// Compares regions and accounts in ARNs of the configuration with those that calls go to.
    fn check_accounts(&mut self, account: &str) {
        let fargate = &self.config.fargate;
        for (key, value) in
            [("Cluster", &fargate.cluster), ("TaskDefinition", &fargate.task_definition)]
        {
            if !value.starts_with("arn:") {
                continue;
            }
            for (place, own, problem) in
                [(3, &*self.region, Problem::ArnOfOtherRegion), (4, account, Problem::OtherAccount)]
            {
                let other = value.split(':').nth(place).filter(|other| *other != own);
                if let Some(other) = other {
                    let facts = [format!("{key} {value}"), other.to_owned(), own.to_owned()];
                    self.report.found(Check::Credentials, problem, facts);
                }
            }
        }
    }
}

/// Whether a text has the form of a region's name, such as `us-gov-west-1`: an availability zone's ends
/// with a letter.
fn is_region(name: &str) -> bool {
    let words: Vec<&str> = name.split('-').collect();
    let [place @ .., number] = words.as_slice() else { return false };
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    place.len() >= 2 && place.iter().all(is_word) && number.parse::<u8>().is_ok()
}

/// What to look at beside the network, if AWS does not answer: the settings that choose where calls
/// go.
pub(super) fn destinations(region: &str) -> String {
    let set = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "AWS_ENDPOINT_URL"];
    let set =
        set.into_iter().filter(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    let all: Vec<String> = std::iter::once(format!("[Fargate] Region ({region})"))
        .chain(set.map(|name| format!("the variable {name}")))
        .collect();
    format!(", and {}", all.join(", "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_differ_from_zones_and_other_words() {
        for region in ["eu-central-1", "us-gov-west-1", "eu-isoe-west-1", "ap-southeast-7"] {
            assert!(is_region(region), "{region}");
        }
        for other in ["eu-central-1a", "eu-central", "Frankfurt", "eu_central_1", "1", "-a-1", ""] {
            assert!(!is_region(other), "{other}");
        }
    }
}
