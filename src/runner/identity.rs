//! The identity of the job, and which sources of it are trusted.

use std::env;

use sha2::{Digest, Sha256};
use states::{About, JobId, foreign_text};

use super::{
    StageEnvironment,
    response::{Response, ResponseError, VARIABLE},
};

/// The job of this call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Names its files: `<runner short token>-<SHA-256 of "projectURL-pipelineID-jobID">`, as with
    /// the Go driver.
    pub id: JobId,
    /// Facts for people and tags.
    pub about: About,
    /// The job's own trace id, the same in all of its processes and attempts. It follows from the
    /// job's token, so that others cannot guess it. A job without a token has none.
    pub trace_id: Option<[u8; 16]>,
}

/// The trusted sources of the job's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// GitLab: the job's response, in the file that gitlab-runner wrote.
    ResponseFile,
    /// The job's variables, too, if gitlab-runner names no file. A job may set them to another
    /// job's.
    JobVariables,
}

/// Why the job cannot be identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is no response file, and variables are not trusted.
    #[error(
        "{VARIABLE} is not set, so only the job's own variables say which job this is, and a job may set them to another job's. Nothing was touched. Upgrade gitlab-runner to 14.1 or newer, which sets it. To trust the variables instead, set TrustJobVariables = true in [Runner] of fargate.toml, or pass --trust-job-variables after `custom`."
    )]
    Untrusted,
    /// Variables are missing.
    #[error("the environment does not say which job this is: {} missing. gitlab-runner sets them for every job.", .0.join(", "))]
    Missing(Vec<String>),
    /// The job's response file cannot be used.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// Returns the value of a CI/CD variable of this process's job. It comes from the project and its
/// users: untrusted.
#[must_use]
pub(super) fn job_variable(name: &str) -> Option<String> {
    env::var(format!("CUSTOM_ENV_{name}")).ok().filter(|value| !value.is_empty())
}

impl Identity {
    /// Reads the job's identity from a stage's environment.
    ///
    /// Project, pipeline and job are those of the response file. A project can set the variables
    /// `CI_JOB_ID` and `CI_PROJECT_URL` to another job's, and must not reach that job's container.
    /// The runner's short token is in no file, so it comes from the job's variables. It alone
    /// cannot name another job's files.
    ///
    /// # Errors
    /// When there is no such file and variables are not trusted, when it cannot be used, or when
    /// variables are missing.
    pub fn of(environment: &StageEnvironment, trust: Trust) -> Result<Self, IdentityError> {
        let variable = |name: &str| environment.job_variable(name);
        match (environment.response()?, trust) {
            (Some(response), _) => Ok(Self::of_response(response, variable)),
            (None, Trust::JobVariables) => Self::of_variables(variable),
            (None, Trust::ResponseFile) => Err(IdentityError::Untrusted),
        }
    }

    /// Whether a job id has the driver's form. The metadata directory may have other files.
    #[must_use]
    pub fn could_name(job: &JobId) -> bool {
        if job.is_warm() {
            return true;
        }
        let hash = job.as_str().rsplit_once('-').map_or("", |(_, hash)| hash);
        hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    fn of_response(response: &Response, variable: impl Fn(&str) -> Option<String>) -> Self {
        let runner = variable("CI_RUNNER_SHORT_TOKEN").unwrap_or_default();
        let (project, pipeline) =
            (response.project_url(), response.pipeline_id().unwrap_or_default());
        let names = [&project, pipeline, &response.id.to_string()];
        Self::new(&runner, names, response.job_name(), &response.token)
    }

    fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, IdentityError> {
        let mut missing = Vec::new();
        let mut required = |name: &str| {
            variable(name).unwrap_or_else(|| {
                missing.push(format!("CUSTOM_ENV_{name}"));
                String::new()
            })
        };
        let runner = required("CI_RUNNER_SHORT_TOKEN");
        let names = [required("CI_PROJECT_URL"), required("CI_PIPELINE_ID"), required("CI_JOB_ID")];
        if !missing.is_empty() {
            return Err(IdentityError::Missing(missing));
        }
        Ok(Self::new(
            &runner,
            names.each_ref().map(String::as_str),
            &variable("CI_JOB_NAME").unwrap_or_default(),
            &variable("CI_JOB_TOKEN").unwrap_or_default(),
        ))
    }

    fn new(
        runner: &str,
        [project_url, pipeline_id, job_id]: [&str; 3],
        job_name: &str,
        token: &str,
    ) -> Self {
        let hash = hex::encode(Sha256::digest(format!("{project_url}-{pipeline_id}-{job_id}")));
        let id = JobId::new(format!("{}-{hash}", file_name_part(runner)))
            // The token's part has at most 40 valid characters and begins with a letter or digit;
            // the hash has 64.
            .unwrap_or_else(|e| unreachable!("{e}"));
        // Projects choose names, and everything else if variables are trusted.
        let about = About {
            project_url: foreign_text::clipped(&without_secrets(project_url)),
            pipeline_id: foreign_text::clipped(pipeline_id),
            job_id: foreign_text::clipped(job_id),
            job_name: foreign_text::clipped(job_name),
            runner: foreign_text::clipped(runner),
        };
        let trace_id = trace_id(token, &id);
        Self { id, about, trace_id }
    }
}

/// Derives a trace id. Backends and logs show it, so it must not tell the token.
fn trace_id(token: &str, job: &JobId) -> Option<[u8; 16]> {
    let hash = Sha256::digest(format!("fargate-driver trace {job} {token}"));
    hash.first_chunk().copied().filter(|_| !token.is_empty())
}

/// Removes the parts of an address that may be secret: user, password, query, fragment.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}").trim_end_matches('/').to_owned()
}

fn file_name_part(token: &str) -> String {
    let safe: String = token
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(40)
        .collect();
    if safe.is_empty() { "runner".to_owned() } else { safe }
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

    /// Returns GitLab's response for the job of [`variables`]; `id` is its own number.
    fn response(id: u64) -> Response {
        let text = format!(
            r#"{{"id":{id},"token":"x","job_info":{{"name":"build","stage":"test","project_id":7,"project_name":"project"}},
                "git_info":{{"repo_url":"https://gitlab-ci-token:x@gitlab.example/group/project.git"}},
                "variables":[{{"key":"CI_PIPELINE_ID","value":"11","public":true}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_id_matches_the_go_drivers_from_either_source() {
        // printf 'https://gitlab.example/group/project-11-22' | sha256sum
        let hash = hex::encode(Sha256::digest("https://gitlab.example/group/project-11-22"));
        for identity in [
            Identity::of_variables(variables).unwrap(),
            Identity::of_response(&response(22), variables),
        ] {
            assert_eq!(identity.id.as_str(), format!("aB3_x-9Z-{hash}"));
        }
    }

    #[test]
    fn a_project_cannot_pose_as_another_job() {
        let victim = Identity::of_response(&response(22), variables);
        // The variables are the victim's, all of them.
        let posing = Identity::of_response(&response(99), variables);
        assert_ne!(victim.id, posing.id);
        assert_eq!(posing.about.job_id, "99");
        let names = |name: &str| match name {
            "CI_PROJECT_URL" => Some("https://other.example/x".to_owned()),
            "CI_PIPELINE_ID" => Some("1".to_owned()),
            "CI_JOB_NAME" => Some("deploy".to_owned()),
            other => variables(other),
        };
        let about = Identity::of_response(&response(22), names).about;
        assert_eq!(
            about,
            About { runner: "aB3_x-9Z".to_owned(), ..victim.about },
            "no variable counts"
        );
        assert_eq!(
            (about.project_url.as_str(), about.pipeline_id.as_str()),
            ("https://gitlab.example/group/project", "11")
        );
        assert_eq!(about.job_name, "build");
    }

    #[test]
    fn all_missing_variables_are_named() {
        let error = Identity::of_variables(|_| None).unwrap_err().to_string();
        for name in ["CI_RUNNER_SHORT_TOKEN", "CI_PROJECT_URL", "CI_PIPELINE_ID", "CI_JOB_ID"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_hostile_token_stays_within_the_directory() {
        let hostile = |name: &str| {
            if name == "CI_RUNNER_SHORT_TOKEN" {
                Some("../../etc/x\n".into())
            } else {
                variables(name)
            }
        };
        let identity = Identity::of_response(&response(22), hostile);
        assert!(identity.id.as_str().starts_with("etcx-"), "{}", identity.id);
        assert_eq!(identity.about.runner, "../../etc/x");
        assert!(Identity::could_name(&identity.id));
    }

    #[test]
    fn a_hostile_project_s_texts_are_one_line_each() {
        let hostile = |name: &str| {
            variables(name)
                .map(|value| format!("{value}\r\n\u{1b}[2J\u{202e}{}", "x".repeat(100_000)))
        };
        let about = Identity::of_variables(hostile).unwrap().about;
        for text in [&about.project_url, &about.pipeline_id, &about.job_id, &about.runner] {
            assert_eq!(
                **text,
                foreign_text::clipped(&foreign_text::tame(text)),
                "tamed and clipped already"
            );
        }
    }

    #[test]
    fn secrets_are_removed_from_addresses() {
        assert_eq!(
            without_secrets("https://user:pass@gitlab.example/g/p?private_token=x#y"),
            "https://gitlab.example/g/p"
        );
        assert_eq!(without_secrets("https://gitlab.example/g/p"), "https://gitlab.example/g/p");
    }

    #[test]
    fn only_who_has_the_jobs_token_can_tell_its_trace_id() {
        let job = |token: &str, id: &str| {
            let names = ["https://gitlab.example/group/project", "11", id];
            Identity::new("aB3_x-9Z", names, "build", token).trace_id
        };
        assert_eq!(job("t0ken", "22"), job("t0ken", "22"));
        assert_ne!(job("t0ken", "22"), job("guess", "22"));
        assert_ne!(job("t0ken", "22"), job("t0ken", "23"));
        // Then each attempt has a random one.
        assert_eq!(job("", "22"), None);
    }
}
