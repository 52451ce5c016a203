//! What a stage gets from gitlab-runner's process: a value, so that another process can do the
//! stage's work.

use std::{collections::BTreeMap, env};

use serde::{Deserialize, Serialize};

use super::response::{Response, ResponseError};

/// The CI/CD variables that the driver reads. A stage has no others.
const READ: [&str; 17] = [
    "CI_RUNNER_SHORT_TOKEN",
    "CI_PROJECT_URL",
    "CI_PIPELINE_ID",
    "CI_JOB_ID",
    "CI_JOB_NAME",
    "CI_JOB_TOKEN",
    "CI_JOB_SERVICES",
    "CI_DEBUG_SERVICES",
    "FARGATE_TASK_DEFINITION",
    "FARGATE_PLATFORM_VERSION",
    "FARGATE_CPU",
    "FARGATE_MEMORY",
    "FARGATE_EPHEMERAL_STORAGE",
    "FARGATE_TASK_ROLE",
    "FARGATE_ARCHITECTURE",
    "TRACEPARENT",
    "TRACESTATE",
];

/// A stage's environment: the job's variables that the driver reads, and GitLab's response with the
/// job. Without either, by default.
#[derive(Debug, Default)]
pub struct StageEnvironment {
    variables: BTreeMap<String, String>,
    response: Option<Result<Response, ResponseError>>,
}

/// The same, for another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentEnvironment {
    variables: BTreeMap<String, String>,
    response: Option<Response>,
}

impl StageEnvironment {
    /// Reads the environment of this process, which gitlab-runner started.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = READ
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), super::identity::job_variable(name)?)))
            .collect();
        Self { variables, response: Response::named_by(env::var_os(super::response::VARIABLE)) }
    }

    /// Returns the value of a CI/CD variable of the job. It comes from the project and its users:
    /// untrusted.
    #[must_use]
    pub fn job_variable(&self, name: &str) -> Option<String> {
        debug_assert!(READ.contains(&name), "{name} is not in READ");
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Returns the job's response; `None` if gitlab-runner names none, as before 14.1.
    ///
    /// # Errors
    /// When no usable file is named.
    pub(super) fn response(&self) -> Result<Option<&Response>, ResponseError> {
        self.response.as_ref().map(|read| read.as_ref().map_err(Clone::clone)).transpose()
    }

    /// Returns a copy for another process; `None` if the response is not usable, so that the job is
    /// not known.
    #[must_use]
    pub fn to_send(&self) -> Option<SentEnvironment> {
        let response = self.response().ok()?.cloned();
        Some(SentEnvironment { variables: self.variables.clone(), response })
    }
}

impl From<SentEnvironment> for StageEnvironment {
    fn from(sent: SentEnvironment) -> Self {
        Self { variables: sent.variables, response: sent.response.map(Ok) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_for_another_process_says_the_same() {
        let response = r#"{"id":7,"job_info":{"name":"build","project_id":3},
            "git_info":{"repo_url":"https://x:y@gitlab.example/g/p.git"},
            "variables":[{"key":"A","value":"b","public":true,"file":false,"raw":true}],
            "image":{"name":"node:22"},"services":[{"name":"redis"}]}"#;
        let environment = StageEnvironment {
            variables: [("CI_JOB_ID".to_owned(), "7".to_owned())].into(),
            response: Some(Ok(serde_json::from_str(response).unwrap())),
        };
        let sent = serde_json::to_string(&environment.to_send().unwrap()).unwrap();
        let received: SentEnvironment = serde_json::from_str(&sent).unwrap();
        let received = StageEnvironment::from(received);
        assert_eq!(received.job_variable("CI_JOB_ID").as_deref(), Some("7"));
        assert_eq!(received.response(), environment.response());
    }

    #[test]
    fn an_unusable_response_is_not_sent() {
        let environment = StageEnvironment {
            response: Some(Err(ResponseError::Unnamed)),
            ..StageEnvironment::default()
        };
        assert!(environment.response().is_err() && environment.to_send().is_none());
        assert_eq!(StageEnvironment::default().response(), Ok(None));
    }
}
