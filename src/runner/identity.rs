//! Which job this is: what gitlab-runner's environment says of it.

use std::{env, fs, path::Path};

use sha2::{Digest, Sha256};
use states::{About, JobId};

/// The job that gitlab-runner called us for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Names its files: `<runner short token>-<SHA-256 of "projectURL-pipelineID-jobID">`, as with the Go driver.
    pub id: JobId,
    /// For people and tags.
    pub about: About,
}

/// Why the job cannot be told from others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Variables are missing.
    #[error("the environment does not say which job this is: {} missing. gitlab-runner sets them for every job.", .0.join(", "))]
    Missing(Vec<String>),
    /// The job's response file is no use.
    #[error("the job's response file {path} cannot be used: {why}")]
    Response {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// The part of the job's response that we trust more than variables, which a project can set.
#[derive(serde::Deserialize)]
struct Response {
    id: u64,
    #[serde(default)]
    job_info: JobInfo,
}

#[derive(serde::Deserialize, Default)]
struct JobInfo {
    #[serde(default)]
    name: String,
}

/// The value of a CI/CD variable of the job. It comes from the project and its users: untrusted.
#[must_use]
pub fn job_variable(name: &str) -> Option<String> {
    env::var(format!("CUSTOM_ENV_{name}")).ok().filter(|value| !value.is_empty())
}

impl Identity {
    /// Reads the job's identity from the environment.
    ///
    /// The job's id is taken from `JOB_RESPONSE_FILE` where there is one: a project can set the
    /// variable `CI_JOB_ID` to another job's, and must not get at that job's container by it.
    ///
    /// # Errors
    /// When variables are missing, or the response file is unreadable.
    pub fn from_env() -> Result<Self, IdentityError> {
        let response =
            env::var_os("JOB_RESPONSE_FILE").filter(|f| !f.is_empty()).map(|file| read_response(Path::new(&file))).transpose()?;
        Self::from(job_variable, response.map(|r| (r.id.to_string(), r.job_info.name)))
    }

    /// Whether a job id is one that is made here. Other files may lie in the metadata directory, with ordinary names.
    #[must_use]
    pub fn could_name(job: &JobId) -> bool {
        let hash = job.as_str().rsplit_once('-').map_or("", |(_, hash)| hash);
        hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    fn from(variable: impl Fn(&str) -> Option<String>, trusted: Option<(String, String)>) -> Result<Self, IdentityError> {
        let mut missing = Vec::new();
        let mut required = |name: &str| {
            variable(name).unwrap_or_else(|| {
                missing.push(format!("CUSTOM_ENV_{name}"));
                String::new()
            })
        };
        let runner = required("CI_RUNNER_SHORT_TOKEN");
        let project_url = required("CI_PROJECT_URL");
        let pipeline_id = required("CI_PIPELINE_ID");
        let (job_id, job_name) = match trusted {
            Some(trusted) => trusted,
            None => (required("CI_JOB_ID"), variable("CI_JOB_NAME").unwrap_or_default()),
        };
        if !missing.is_empty() {
            return Err(IdentityError::Missing(missing));
        }
        let hash = hex(&Sha256::digest(format!("{project_url}-{pipeline_id}-{job_id}")));
        let id = JobId::new(format!("{}-{hash}", file_name_part(&runner)))
            // The token's part is made of at most 40 valid characters and a letter or digit first, the hash of 64.
            .unwrap_or_else(|e| unreachable!("{e}"));
        Ok(Self { id, about: About { project_url, pipeline_id, job_id, job_name, runner } })
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn file_name_part(token: &str) -> String {
    let safe: String = token.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40).collect();
    if safe.is_empty() { "runner".to_owned() } else { safe }
}

fn read_response(path: &Path) -> Result<Response, IdentityError> {
    let fail = |why: String| IdentityError::Response { path: path.display().to_string(), why };
    let text = fs::read(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "CI_RUNNER_SHORT_TOKEN" => "aB3_x-9Z",
            "CI_PROJECT_URL" => "https://gitlab.example/group/project",
            "CI_PIPELINE_ID" => "11",
            "CI_JOB_ID" => "22",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn is_named_as_the_go_driver_names_it() {
        let identity = Identity::from(variables, None).unwrap();
        // printf 'https://gitlab.example/group/project-11-22' | sha256sum
        let hash = hex(&Sha256::digest("https://gitlab.example/group/project-11-22"));
        assert_eq!(identity.id.as_str(), format!("aB3_x-9Z-{hash}"));
    }

    #[test]
    fn a_project_cannot_pose_as_another_job() {
        let honest = Identity::from(variables, Some(("22".into(), "build".into()))).unwrap();
        let posing = Identity::from(variables, Some(("99".into(), "build".into()))).unwrap();
        assert_ne!(honest.id, posing.id);
        assert_eq!(posing.about.job_id, "99");
    }

    #[test]
    fn names_all_that_is_missing() {
        let error = Identity::from(|_| None, None).unwrap_err().to_string();
        for name in ["CI_RUNNER_SHORT_TOKEN", "CI_PROJECT_URL", "CI_PIPELINE_ID", "CI_JOB_ID"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_hostile_token_stays_within_the_directory() {
        let hostile = |name: &str| if name == "CI_RUNNER_SHORT_TOKEN" { Some("../../etc/x".into()) } else { variables(name) };
        let identity = Identity::from(hostile, None).unwrap();
        assert!(identity.id.as_str().starts_with("etcx-"), "{}", identity.id);
    }
}
