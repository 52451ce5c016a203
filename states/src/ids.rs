//! Identifiers of jobs, runs, tasks and interfaces, parsed where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {expected}")]
pub struct BadId {
    /// The kind, in words.
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// What is valid.
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the identifier.
            ///
            /// # Errors
            /// [`BadId`] when the text is not of this kind.
            pub fn new(text: impl Into<String>) -> Result<Self, BadId> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(BadId { kind: $kind, text, expected: $expected })
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

fn file_name_safe(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

id!(
    /// A GitLab job on this runner manager, and the name of its files: `<runner short token>-<hash
    /// of project URL, pipeline id and job id>`.
    JobId, "job id", "1 to 200 letters, digits, '-', '_' or '.', not starting with '.'",
    |t| file_name_safe(t, 200)
);

/// The beginning of a warm task's id.
const WARM: &str = "warm-";

impl JobId {
    /// The id of a warm task: `warm-<16 hexadecimal digits>`. `random` is to be unique.
    #[must_use]
    pub fn warm(random: u64) -> Self {
        Self(format!("{WARM}{random:016x}"))
    }

    /// Whether it is a warm task's. No GitLab job has such an id: theirs end in 64 digits.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.0.strip_prefix(WARM).is_some_and(|digits| {
            digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    }
}

id!(
    /// One delivery of one script. Names the run's directory in the container.
    RunId, "run id", "1 to 64 letters, digits, '-', '_' or '.', not starting with '.'",
    |t| file_name_safe(t, 64)
);

id!(
    /// The ARN of an ECS task (or, in tests, any text without white space).
    TaskArn, "task ARN", "1 to 2048 printable ASCII characters without white space",
    |t| !t.is_empty() && t.len() <= 2048 && t.bytes().all(|b| b.is_ascii_graphic())
);

impl TaskArn {
    /// The task's id: the part after the last `/` of the ARN.
    #[must_use]
    pub fn task_id(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Its region: `arn:<partition>:ecs:<region>:<account>:task/…`.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.part(2)
    }

    /// Its account.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.part(3)
    }

    fn part(&self, number: usize) -> Option<&str> {
        self.0.strip_prefix("arn:")?.split(':').nth(number).filter(|part| !part.is_empty())
    }

    /// The ARN of its cluster, which ARNs of before 2019 do not name.
    #[must_use]
    pub fn cluster_arn(&self) -> Option<String> {
        let (account, rest) = self.0.split_once(":task/")?;
        let (cluster, _id) = rest.split_once('/')?;
        Some(format!("{account}:cluster/{cluster}"))
    }
}

id!(
    /// RunTask's idempotency token: at most 64 characters, ASCII 33 to 126 (ECS API reference, RunTask).
    ClientToken, "client token", "1 to 64 characters of ASCII 33 to 126",
    |t| !t.is_empty() && t.len() <= 64 && t.bytes().all(|b| b.is_ascii_graphic())
);

id!(
    /// RunTask's `startedBy`: letters, digits, `-`, `/`, `_`; we stay within the 36 characters of older API versions.
    StartedBy, "startedBy", "1 to 36 letters, digits, '-', '/' or '_'",
    |t| !t.is_empty() && t.len() <= 36 && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'_'))
);

id!(
    /// An elastic network interface, `eni-…`.
    InterfaceId, "network interface id", "1 to 64 letters, digits or '-'",
    |t| !t.is_empty() && t.len() <= 64 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warm_ids_are_warm() {
        assert!(JobId::warm(0).is_warm() && JobId::warm(u64::MAX).is_warm());
        assert_eq!(JobId::new(JobId::warm(0xab).as_str()), Ok(JobId::warm(0xab)));
        // A runner whose short token is "warm".
        let job = format!("warm-{}", "0".repeat(64));
        for other in [job.as_str(), "warm-", "warm-0123", "warm-0123456789ABCDEF", "x-warm-00"] {
            assert!(!JobId::new(other).unwrap().is_warm(), "{other}");
        }
    }

    #[test]
    fn a_task_names_its_cluster() {
        let cluster = |task| TaskArn::new(task).ok()?.cluster_arn();
        let new = "arn:aws:ecs:eu-central-1:123456789012:task/ci/0123456789abcdef0123456789abcdef";
        assert_eq!(
            cluster(new).as_deref(),
            Some("arn:aws:ecs:eu-central-1:123456789012:cluster/ci")
        );
        assert_eq!(cluster("arn:aws:ecs:eu-central-1:123456789012:task/0123456789abcdef"), None);
    }
}
