//! ECS Exec's calls: ExecuteCommand, and the calls of Session Manager and KMS for its sessions.

use std::time::Duration;

use aws_sdk_ecs::{
    error::{ProvideErrorMetadata as _, SdkError},
    types::ClusterField,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use states::{
    ConnectCause, ConnectError, ConnectErrorKind as Kind, ContainerReport, ControlError,
    HostIdentity, Seen, Target, TaskControl as _, Timestamp,
};
use transports::ecs_exec::{
    Container, ExecApi, KEY_BYTES, ListedSession, NotDone, NotOpened, OpenedSession,
    channel::{DataKey, NoKey},
};

use super::{
    EcsControl,
    call::{self, signature},
    errors, kms_key,
};

const OPERATION: &str = "ExecuteCommand";
/// Pages of a list that are read: a container has few sessions, but pages may be empty.
const MOST_PAGES: usize = 5;
/// ECS Exec's calls, with task control's clients.
#[derive(Debug)]
pub struct ExecCalls {
    control: EcsControl,
}

impl ExecCalls {
    /// Returns calls with this control's credentials and region.
    #[must_use]
    pub fn new(control: EcsControl) -> Self {
        Self { control }
    }

    /// Describes the container.
    async fn container(&self, target: &Target) -> Result<ContainerReport, ConnectError> {
        let described = self
            .control
            .describe(&target.cluster, std::slice::from_ref(&target.task))
            .await
            .map_err(|e| {
                let error = unavailable(&e);
                // The job's script may run for hours: a refused description must not end it.
                if target.pinned.is_some() {
                    ConnectError { kind: Kind::Interrupted, ..error }
                } else {
                    error
                }
            })?;
        let report = described.into_iter().find_map(|described| match described.seen {
            Seen::Task(report) => report.container(&target.container).cloned(),
            Seen::Missing => None,
        });
        report.ok_or_else(|| {
            error(
                Kind::AgentNotConnected,
                ConnectCause::NoSuchContainer,
                format!(
                    "ECS shows no container {} in the task {}",
                    target.container,
                    target.task.task_id()
                ),
            )
        })
    }
}

impl ExecApi for ExecCalls {
    async fn identify(&self, target: &Target) -> Result<Container, ConnectError> {
        let container = self.container(target).await?;
        if target.pinned.is_none()
            && let Some(status) =
                container.exec_agent.as_deref().filter(|status| *status != "RUNNING")
        {
            return Err(not_connected(target, status));
        }
        identity(target, container.runtime_id)
    }

    async fn execute(&self, target: &Target, command: &str) -> Result<OpenedSession, NotOpened> {
        let call = self
            .control
            .clients()
            .await
            .ecs
            .execute_command()
            .cluster(&target.cluster)
            .task(target.task.as_str())
            .container(&target.container)
            // ECS offers interactive sessions only.
            .interactive(true)
            .command(command);
        let answer = call.send().await.map_err(|e| {
            let refusal =
                errors::refused(OPERATION, &e, &errors::Subject::cluster(&target.cluster));
            let (code, said) = match &e {
                SdkError::ServiceError(service) => (
                    service.err().code().unwrap_or_default(),
                    service.err().message().unwrap_or_default(),
                ),
                _ => ("", ""),
            };
            NotOpened { error: refused(target, code, said, &refusal), perhaps: perhaps_done(&e) }
        })?;
        let nonsense = |what| NotOpened {
            error: unavailable(&errors::nonsense(OPERATION, what)),
            perhaps: true,
        };
        let session = answer.session.ok_or_else(|| nonsense("it has no session"))?;
        let (Some(id), Some(url), Some(token)) =
            (session.session_id, session.stream_url, session.token_value)
        else {
            return Err(nonsense("its session has no id, no address or no token"));
        };
        Ok(OpenedSession { id, url, token })
    }

    async fn sign(&self, url: &str) -> Result<Vec<(String, String)>, String> {
        // Equivalent for the signature, and a scheme that its library accepts.
        let url = url.replacen("ws", "http", 1);
        let clients = self.control.clients().await;
        let shared = &clients.shared;
        let instructions =
            signature(shared, "OpenDataChannel", "ssmmessages", "GET", &url, &[], b"")
                .await
                .map_err(|e| e.to_string())?;
        Ok(instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    async fn data_key(&self, key: &str, context: &[(&str, &str)]) -> Result<DataKey, NoKey> {
        let target = context
            .iter()
            .find(|(name, _)| *name == "aws:ssm:TargetId")
            .map_or("", |(_, target)| *target);
        let own = self.key_of_cluster(cluster_of(target)).await?;
        let key =
            kms_key::checked(key, own.as_deref()).map_err(|why| NoKey { why, transient: false })?;
        let context: serde_json::Map<String, Value> =
            context.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        let body =
            json!({ "KeyId": key, "NumberOfBytes": KEY_BYTES, "EncryptionContext": context });
        let no_key =
            |e: ControlError| NoKey { why: e.to_string(), transient: e.kind.is_transient() };
        let clients = self.control.clients().await;
        let config = &clients.shared;
        let answer = call::json(config, "kms", "TrentService.GenerateDataKey", &body)
            .await
            .map_err(no_key)?;
        let bytes = |name: &str| {
            answer.get(name).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok())
        };
        match (bytes("Plaintext"), bytes("CiphertextBlob")) {
            (Some(plain), Some(sealed)) => Ok(DataKey { plain, sealed }),
            _ => Err(no_key(errors::nonsense("GenerateDataKey", "it has no key"))),
        }
    }

    async fn terminate(&self, session: &str) -> Result<(), NotDone> {
        self.ssm("AmazonSSM.TerminateSession", &json!({ "SessionId": session })).await?;
        Ok(())
    }

    async fn sessions(&self, container: &str) -> Result<Vec<ListedSession>, NotDone> {
        let mut asked = json!({ "State": "Active", "Filters": [{ "key": "Target", "value": container }], "MaxResults": 200 });
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.ssm("AmazonSSM.DescribeSessions", &asked).await?;
            found.extend(
                answer
                    .get("Sessions")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|shown| listed(shown, container)),
            );
            match answer.get("NextToken").and_then(Value::as_str) {
                Some(next) => asked["NextToken"] = next.into(),
                None => break,
            }
        }
        Ok(found)
    }
}

impl ExecCalls {
    /// Calls Session Manager.
    async fn ssm(&self, target: &'static str, body: &Value) -> Result<Value, NotDone> {
        let not_done =
            |e: ControlError| NotDone { why: e.to_string(), transient: e.kind.is_transient() };
        let clients = self.control.clients().await;
        let config = &clients.shared;
        call::json(config, "ssm", target, body).await.map_err(not_done)
    }

    /// Returns the key of the cluster's `executeCommandConfiguration`.
    async fn key_of_cluster(&self, cluster: &str) -> Result<Option<String>, NoKey> {
        const OPERATION: &str = "DescribeClusters";
        let no_key = |e: &ControlError| NoKey {
            why: format!("the cluster's own key cannot be read: {}", diagnosis::explain_control(e)),
            transient: e.kind.is_transient(),
        };
        let call = self
            .control
            .clients()
            .await
            .ecs
            .describe_clusters()
            .clusters(cluster)
            .include(ClusterField::Configurations);
        let answer = call.send().await.map_err(|e| {
            no_key(&errors::refused(OPERATION, &e, &errors::Subject::cluster(cluster)))
        })?;
        let found = answer
            .clusters()
            .first()
            .ok_or_else(|| no_key(&errors::nonsense(OPERATION, "it does not show the cluster")))?;
        let configuration = found
            .configuration()
            .and_then(|configuration| configuration.execute_command_configuration());
        Ok(configuration
            .and_then(|configuration| configuration.kms_key_id())
            .filter(|key| !key.is_empty())
            .map(str::to_owned))
    }
}

/// Parses a session of DescribeSessions (Systems Manager API reference: `Session`), if it is in
/// this container.
fn listed(shown: &Value, container: &str) -> Option<ListedSession> {
    let text = |name: &str| shown.get(name).and_then(Value::as_str);
    let began = Duration::try_from_secs_f64(shown.get("StartDate")?.as_f64()?).ok()?;
    let found = ListedSession {
        id: text("SessionId")?.to_owned(),
        began: Timestamp::from_millis(u64::try_from(began.as_millis()).ok()?),
    };
    (text("Target") == Some(container)).then_some(found)
}

/// Whether a failed call may have had its effect.
fn perhaps_done<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => false,
        SdkError::ServiceError(service) => service.raw().status().is_server_error(),
        // There was no answer, or an ambiguous one.
        _ => true,
    }
}

/// Returns the container, once ECS has its runtime id.
fn identity(target: &Target, runtime_id: Option<String>) -> Result<Container, ConnectError> {
    let Some(runtime) = runtime_id.filter(|id| !id.is_empty()) else {
        let message =
            format!("ECS does not show the runtime id of the container {} yet", target.container);
        return Err(error(Kind::Interrupted, ConnectCause::NoRuntimeId, message));
    };
    let cluster = target.cluster.rsplit('/').next().unwrap_or_default();
    let name = format!("ecs:{cluster}_{}_{runtime}", target.task.task_id());
    Ok(Container { identity: HostIdentity(runtime), target: name })
}

/// Extracts the cluster's name from a target of [`identity`]: neither task ids nor runtime ids have
/// an underscore.
fn cluster_of(target: &str) -> &str {
    target.strip_prefix("ecs:").and_then(|rest| rest.rsplitn(3, '_').nth(2)).unwrap_or_default()
}

fn error(kind: Kind, cause: ConnectCause, message: String) -> ConnectError {
    ConnectError { kind, message, cause }
}

fn not_connected(target: &Target, status: &str) -> ConnectError {
    let message = format!(
        "the exec agent of the container {} is not connected yet (ECS shows it as {status})",
        target.container
    );
    error(Kind::AgentNotConnected, ConnectCause::General, message)
}

/// Converts the error of a call without a usable answer.
fn unavailable(e: &ControlError) -> ConnectError {
    let kind = if e.kind.is_transient() { Kind::Interrupted } else { Kind::Denied };
    error(kind, ConnectCause::Api(e.kind, e.cause), e.to_string())
}

/// Classifies refusals of ExecuteCommand (Amazon ECS API reference).
fn refused(target: &Target, code: &str, said: &str, refusal: &ControlError) -> ConnectError {
    let container = &target.container;
    match code {
        "TargetNotConnectedException" => error(
            Kind::AgentNotConnected,
            if target.pinned.is_some() {
                ConnectCause::AgentDisconnected
            } else {
                ConnectCause::General
            },
            format!(
                "the exec agent of the container {container} runs and is not connected to AWS (ECS: {said})"
            ),
        ),
        "AccessDeniedException" => error(
            Kind::Denied,
            ConnectCause::ExecuteDenied,
            format!("the runner manager's role may not run commands in the container ({said})"),
        ),
        "InvalidParameterException" if said.contains("agent") && said.contains("running") => error(
            Kind::AgentNotConnected,
            ConnectCause::General,
            format!("the exec agent of the container {container} does not run yet (ECS: {said})"),
        ),
        "InvalidParameterException" if said.contains("task is not running") => error(
            Kind::Interrupted,
            ConnectCause::TaskNotRunning,
            format!("the task does not run (ECS: {said})"),
        ),
        "InvalidParameterException" | "ClientException" => error(
            Kind::Denied,
            ConnectCause::ExecuteRefused,
            format!("ECS does not run commands in the container {container} ({said})"),
        ),
        _ => unavailable(refusal),
    }
}

#[cfg(test)]
mod tests {
    use states::{ControlErrorKind, TaskArn};

    use super::*;

    fn target() -> Target {
        Target {
            transport: "ecs-exec".into(),
            destination: states::Destination::Task,
            cluster: "arn:aws:ecs:eu-west-1:111122223333:cluster/ci".to_owned(),
            task: TaskArn::new(
                "arn:aws:ecs:eu-west-1:111122223333:task/ci/0123456789abcdef0123456789abcdef",
            )
            .unwrap(),
            container: "ci-coordinator".to_owned(),
            key: "/none".into(),
            pinned: None,
            host_proof: None,
            facts: None,
            shared: None,
            connect_timeout: std::time::Duration::ZERO,
            attempt_timeout: std::time::Duration::ZERO,
        }
    }

    /// A description without an id must neither be pinned nor look like another container.
    #[test]
    fn a_container_without_a_runtime_id_is_described_again() {
        for missing in [None, Some(String::new())] {
            assert_eq!(identity(&target(), missing).unwrap_err().kind, Kind::Interrupted);
        }
        let known = identity(&target(), Some("0123-4".to_owned())).unwrap();
        assert_eq!(
            (known.identity.0.as_str(), known.target.as_str()),
            ("0123-4", "ecs:ci_0123456789abcdef0123456789abcdef_0123-4")
        );
        assert_eq!(cluster_of(&known.target), "ci");
        assert_eq!(cluster_of("ecs:my_ci_0123_0123-4"), "my_ci");
    }

    #[test]
    fn sessions_of_other_containers_are_ignored() {
        let shown = |target: &str| json!({ "SessionId": "ecs-execute-command-1", "Target": target, "StartDate": 1_700_000_000.25, "Status": "Connected" });
        let found = ListedSession {
            id: "ecs-execute-command-1".to_owned(),
            began: Timestamp::from_millis(1_700_000_000_250),
        };
        assert_eq!(listed(&shown("ecs:ci_1_2"), "ecs:ci_1_2"), Some(found));
        assert_eq!(listed(&shown("ecs:ci_1_3"), "ecs:ci_1_2"), None);
        for odd in [
            json!({}),
            json!({ "SessionId": "x", "Target": "ecs:ci_1_2" }),
            json!({ "SessionId": "x", "Target": "ecs:ci_1_2", "StartDate": -1.0 }),
        ] {
            assert_eq!(listed(&odd, "ecs:ci_1_2"), None);
        }
    }

    #[test]
    fn refusals_are_explained() {
        let target = target();
        let refusal = |kind| ControlError {
            operation: OPERATION.to_owned(),
            kind,
            code: None,
            message: "said".to_owned(),
            cause: Default::default(),
        };
        let other = refusal(ControlErrorKind::Other);
        let not_enabled = "The execute command failed because execute command was not enabled when the task was run or the execute command agent isn’t running.";
        for (code, said, kind, remedy) in [
            (
                "TargetNotConnectedException",
                "internal error",
                Kind::AgentNotConnected,
                "ssmmessages",
            ),
            ("InvalidParameterException", not_enabled, Kind::AgentNotConnected, "ssmmessages"),
            (
                "InvalidParameterException",
                "The container x was not found in the task.",
                Kind::Denied,
                "ContainerName",
            ),
            ("AccessDeniedException", "no", Kind::Denied, "docs/iam.md"),
            ("Odd", "no", Kind::Denied, "API reference"),
        ] {
            let explained = refused(&target, code, said, &other);
            assert_eq!(explained.kind, kind, "{code}");
            assert!(diagnosis::connect_remedy(&explained).contains(remedy), "{explained:?}");
        }
        assert!(
            refused(&target, "Odd", "", &refusal(ControlErrorKind::Throttled)).kind.is_transient()
        );
        let reached = Target { pinned: Some(HostIdentity("x".to_owned())), ..target };
        assert!(
            diagnosis::connect_remedy(&refused(
                &reached,
                "TargetNotConnectedException",
                "",
                &other
            ))
            .contains("two sessions")
        );
    }
}
