//! AWS's answers, classified by code and text.

use states::{Capacity, ControlCause as Cause, ControlError, ControlErrorKind as Kind, LaunchSpec};

use super::{Subject, error_of};

/// Classifies ECS's answer that there are no instances for the task.
fn without_instances(said: &str, subject: &Subject<'_>) -> (Kind, String, Cause) {
    let cluster = subject.cluster;
    let asked = match subject.launch.map(|spec| &spec.capacity) {
        None | Some(Capacity::ClusterDefault) => {
            return (
                Kind::NoCapacityProvider,
                format!(
                    "cluster {cluster} has no default capacity provider strategy, and fargate.toml names neither LaunchType nor CapacityProviders (ECS: {said})"
                ),
                Cause::General,
            );
        }
        Some(Capacity::LaunchType(launch_type)) => format!("LaunchType {launch_type}"),
        Some(Capacity::Strategy(providers)) => {
            format!(
                "CapacityProviders {}",
                providers
                    .iter()
                    .map(|provider| provider.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
    };
    (
        Kind::WrongSetting,
        format!("cluster {cluster} has no instances for {asked} (ECS: {said})"),
        Cause::NoInstances,
    )
}

/// Classifies an error answer of a service.
///
/// `status` is HTTP's; `code` is empty if the service sent none.
pub(super) fn answered(
    operation: &str,
    status: u16,
    code: &str,
    said: &str,
    subject: &Subject<'_>,
) -> ControlError {
    let cluster = subject.cluster;
    let definition = subject.definition;
    let lower = said.to_lowercase();
    let (kind, message, cause) = match code {
        _ if said.contains("No Container Instances were found") => without_instances(said, subject),
        _ if is_account_limit(&lower) => account_limit(said),
        // ECS calls EC2 for subnets and security groups, and reports EC2's refusals as wrong
        // parameters.
        "InvalidParameterException" | "ClientException" if is_throttling_of_ec2(&lower) => {
            (Kind::Throttled, format!("EC2 throttles ECS ({said})"), Cause::General)
        }
        "ClientException" if lower.contains("too many concurrent attempts") => (
            Kind::Throttled,
            format!("another process registers the same task definition ({said})"),
            Cause::General,
        ),
        "InvalidParameterException" | "ClientException"
            if lower.contains("errorcode: internalerror") =>
        {
            (
                Kind::Unavailable,
                format!("a service that ECS depends on failed ({said})"),
                Cause::General,
            )
        }
        "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "LimitExceededException" => (
            Kind::Throttled,
            format!("the API's rate limit is exceeded ({code}: {said})"),
            Cause::General,
        ),
        _ if lower.contains("rate exceeded") || lower.contains("request limit exceeded") => {
            (Kind::Throttled, format!("the API's rate limit is exceeded ({said})"), Cause::General)
        }
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "AuthFailure"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "SignatureDoesNotMatch" => (
            Kind::Credentials,
            format!("AWS does not accept the credentials ({code}: {said})"),
            Cause::General,
        ),
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation"
            if said.contains("iam:PassRole") =>
        {
            (
                Kind::Denied,
                format!("the runner manager's role may not pass the task's roles to ECS ({said})"),
                Cause::PassRole,
            )
        }
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" => (
            Kind::Denied,
            format!("the runner manager's role is not allowed to do this ({said})"),
            Cause::General,
        ),
        "BlockedException" => {
            (Kind::Denied, format!("the AWS account is blocked ({said})"), Cause::AccountBlocked)
        }
        "ClusterNotFoundException" => (
            Kind::WrongSetting,
            format!("the cluster {cluster} does not exist in this account and region"),
            Cause::NoSuchCluster,
        ),
        "ConflictException" => (
            Kind::Conflict,
            format!("an earlier call used this launch's client token ({said})"),
            Cause::General,
        ),
        "PlatformUnknownException" => (
            Kind::WrongSetting,
            format!("the platform version does not exist ({said})"),
            Cause::NoSuchPlatform,
        ),
        "PlatformTaskDefinitionIncompatibilityException" => (
            Kind::TaskDefinition,
            format!("the task definition {definition} does not fit the platform version ({said})"),
            Cause::PlatformMismatch,
        ),
        _ if lower.contains("taskdefinition") || lower.contains("task definition") => (
            Kind::TaskDefinition,
            format!("the task definition {definition} cannot be used ({code}: {said})"),
            Cause::General,
        ),
        "InvalidParameterException" | "ClientException"
            if lower.contains("capacity") && lower.contains("unavailable") =>
        {
            capacity(said)
        }
        "InvalidParameterException" | "ClientException"
            if subject.launch.is_none() && !definition.is_empty() =>
        {
            (
                Kind::TaskDefinition,
                format!("the task definition {definition} is not accepted ({said})"),
                Cause::General,
            )
        }
        "InvalidParameterException" | "ClientException" => (
            Kind::WrongSetting,
            format!("ECS does not accept the parameters{} ({said})", subject.parameters()),
            Cause::General,
        ),
        _ if status == 429 => {
            (Kind::Throttled, format!("the API's rate limit is exceeded ({said})"), Cause::General)
        }
        // By the status, as AWS adds codes.
        _ if status >= 500 => (
            Kind::Unavailable,
            format!(
                "the service failed (HTTP status {status}, {}: {said})",
                if code.is_empty() { "no code" } else { code }
            ),
            Cause::General,
        ),
        "" => (
            Kind::Unavailable,
            format!("the service refused without saying why (HTTP status {status})"),
            Cause::General,
        ),
        _ => (Kind::Other, format!("{code}: {said}"), Cause::General),
    };
    let code = Some(code.to_owned()).filter(|code| !code.is_empty());
    error_of(operation, kind, code, message, cause)
}

/// Converts RunTask's `failures`: an answer without a task.
pub(in crate::control) fn launch_failure(
    spec: &LaunchSpec,
    reason: Option<&str>,
    detail: Option<&str>,
) -> ControlError {
    let reason = reason.unwrap_or("no reason given");
    let said = match detail {
        Some(detail) => format!("{reason}: {detail}"),
        None => reason.to_owned(),
    };
    let lower = said.to_lowercase();
    let (kind, message, cause) = if is_account_limit(&lower) {
        account_limit(&said)
    } else if reason.starts_with("RESOURCE") || reason == "AGENT" || lower.contains("capacity") {
        // AGENT: the instance's agent is not connected, as while it starts.
        capacity(&said)
    } else if lower.contains("rate limit") || is_throttling_of_ec2(&lower) {
        (Kind::Throttled, format!("too many launches at once ({said})"), Cause::General)
    } else {
        (
            Kind::Other,
            format!("ECS launched nothing in cluster {} ({said})", spec.cluster),
            Cause::LaunchFailure,
        )
    };
    error_of("RunTask", kind, Some(reason.to_owned()), message, cause)
}

/// Whether ECS quotes EC2's text for throttling; `said` is in lower case.
fn is_throttling_of_ec2(said: &str) -> bool {
    ["request limit exceeded", "requestlimitexceeded", "rate exceeded", "throttl"]
        .iter()
        .any(|words| said.contains(words))
}

/// Whether a quota of the account is used up; `said` is in lower case. Quotas limit running tasks
/// (AWS Fargate: vCPUs, formerly tasks) and tasks that wait for capacity. The first text has a
/// typographic apostrophe, and had an ASCII one: "You’ve reached the limit on the number of vCPUs
/// …".
fn is_account_limit(said: &str) -> bool {
    said.contains("reached the limit on the number of")
        || said.contains("provisioning capacity limit exceeded")
}

fn account_limit(said: &str) -> (Kind, String, Cause) {
    (
        Kind::AccountLimit,
        format!("a quota of the AWS account is used up, which Service Quotas shows ({said})"),
        Cause::General,
    )
}

fn capacity(said: &str) -> (Kind, String, Cause) {
    (Kind::Capacity, format!("ECS has no capacity for the task now ({said})"), Cause::General)
}

/// Converts an error answer of a query-protocol service (EC2).
pub(in crate::control) fn query(
    operation: &str,
    status: u16,
    code: &str,
    said: &str,
) -> ControlError {
    answered(operation, status, code, said, &Subject::cluster(""))
}

#[cfg(test)]
mod tests {
    use super::{super::unavailable, *};

    #[test]
    fn refusals_are_classified() {
        let kind = |code: &str, said: &str| {
            answered("RunTask", 400, code, said, &Subject::cluster("c")).kind
        };
        assert_eq!(
            kind("InvalidParameterException", "No Container Instances were found in your cluster."),
            Kind::NoCapacityProvider
        );
        assert_eq!(kind("ThrottlingException", "Rate exceeded"), Kind::Throttled);
        assert_eq!(
            kind("ExpiredTokenException", "The security token included in the request is expired"),
            Kind::Credentials
        );
        assert_eq!(
            kind("AccessDeniedException", "not authorized to perform: iam:PassRole on resource"),
            Kind::Denied
        );
        assert_eq!(kind("ClusterNotFoundException", "Cluster not found."), Kind::WrongSetting);
        assert_eq!(kind("ClientException", "TaskDefinition not found."), Kind::TaskDefinition);
        assert_eq!(kind("ClientException", "TaskDefinition is inactive"), Kind::TaskDefinition);
        assert_eq!(
            kind("InvalidParameterException", "The subnet ID 'subnet-x' does not exist"),
            Kind::WrongSetting
        );
        let status = |status: u16, code: &str| {
            answered("RunTask", status, code, "oops", &Subject::cluster("c")).kind
        };
        assert_eq!(status(500, "ServerException"), Kind::Unavailable);
        assert_eq!(status(503, "SomethingNew"), Kind::Unavailable);
        assert_eq!(status(429, ""), Kind::Throttled);
        assert_eq!(status(403, ""), Kind::Unavailable, "no reason is no reason to give up");
        assert_eq!(kind("SomethingNew", "oops"), Kind::Other);
    }

    /// Texts that AWS has answered with.
    #[test]
    fn ec2_and_account_limits_are_retried() {
        let kind = |code: &str, said: &str| {
            answered("RunTask", 400, code, said, &Subject::cluster("c")).kind
        };
        for (said, expected) in [
            (
                "Error retrieving security group information for [sg-0a1b2c3d]: Request limit exceeded. (ErrorCode: RequestLimitExceeded)",
                Kind::Throttled,
            ),
            (
                "Error retrieving subnet information for [subnet-0a1b2c3d]: Rate exceeded (ErrorCode: Throttling)",
                Kind::Throttled,
            ),
            (
                "Error retrieving subnet information for [subnet-0a1b2c3d]: An internal error has occurred (ErrorCode: InternalError)",
                Kind::Unavailable,
            ),
        ] {
            assert_eq!(kind("InvalidParameterException", said), expected, "{said}");
            assert!(expected.is_transient());
        }
        assert_eq!(
            kind(
                "ClientException",
                "The request failed because the provisioning capacity limit exceeded."
            ),
            Kind::AccountLimit
        );
        assert_eq!(kind("ConflictException", "conflicts"), Kind::Conflict);
        let spec = launch(Capacity::ClusterDefault);
        for reason in [
            "You’ve reached the limit on the number of vCPUs you can run concurrently",
            "You've reached the limit on the number of vCPUs you can run concurrently",
            "You've reached the limit on the number of tasks you can run concurrently",
        ] {
            let refusal = launch_failure(&spec, Some(reason), None);
            assert_eq!(refusal.kind, Kind::AccountLimit, "{reason}");
            assert!(refusal.message.contains("Service Quotas"), "{refusal:?}");
        }
        assert_eq!(
            launch_failure(&spec, Some("Capacity is unavailable at this time."), None).kind,
            Kind::Capacity
        );
    }

    #[test]
    fn aws_texts_are_one_bounded_line() {
        let said = format!("no\u{1b}[2J\r\n{}", "x".repeat(100_000));
        let refusal = answered("RunTask", 400, &said, &said, &Subject::cluster("c"));
        for text in [&refusal.message, refusal.code.as_ref().unwrap()] {
            assert!(text.chars().count() <= 500 && !text.contains(['\u{1b}', '\n']), "{text}");
        }
    }

    #[test]
    fn advice_for_the_pass_role_trap_and_the_missing_strategy() {
        let said = |code: &str, said: &str| {
            let refusal = answered("RunTask", 400, code, said, &Subject::cluster("ci"));
            diagnosis::control_remedy(&refusal)
        };
        assert!(said("AccessDeniedException", "… iam:PassRole …").contains("iam:PassRole"));
        assert!(
            said("InvalidParameterException", "No Container Instances were found in your cluster.")
                .contains("capacity provider")
        );
    }

    fn launch(capacity: Capacity) -> LaunchSpec {
        LaunchSpec {
            cluster: "ci".into(),
            task_definition: "t".into(),
            platform_version: None,
            subnets: vec![],
            security_groups: vec![],
            assign_public_ip: false,
            capacity,
            container: "c".into(),
            environment: vec![],
            started_by: states::StartedBy::new("s").unwrap(),
            tags: vec![],
            enable_execute_command: false,
            propagate_tags: false,
            enable_ecs_managed_tags: false,
            additions: None,
            size: states::TaskSize::default(),
            task_role: None,
            service_environment: Vec::new(),
        }
    }

    #[test]
    fn the_setting_is_named_if_there_are_no_instances() {
        let said = "No Container Instances were found in your cluster.";
        let refusal = |capacity| {
            answered(
                "RunTask",
                400,
                "InvalidParameterException",
                said,
                &Subject::launch(&launch(capacity), "job:1"),
            )
        };
        let provider = states::CapacityProvider { name: "asg".into(), weight: 1, base: 0 };
        let named = refusal(Capacity::Strategy(vec![provider]));
        assert!(
            named.kind == Kind::WrongSetting && named.message.contains("CapacityProviders asg"),
            "{named:?}"
        );
        assert!(!diagnosis::explain_control(&named).contains("neither LaunchType"), "{named:?}");
        assert_eq!(refusal(Capacity::ClusterDefault).kind, Kind::NoCapacityProvider);
    }

    #[test]
    fn instances_without_room_or_agent_are_missing_capacity() {
        let spec = launch(Capacity::LaunchType("EC2".into()));
        for reason in ["RESOURCE:CPU", "RESOURCE:ENI", "RESOURCE:GPU", "AGENT"] {
            assert_eq!(launch_failure(&spec, Some(reason), None).kind, Kind::Capacity, "{reason}");
        }
        let kind = launch_failure(&spec, Some("ATTRIBUTE"), None).kind;
        assert_ne!(kind, Kind::Capacity, "no instance of the fleet will ever do");
    }

    #[test]
    fn errors_promise_nothing_and_end_with_one_full_stop() {
        for (code, said) in [
            ("ThrottlingException", "Rate exceeded."),
            ("AccessDeniedException", "No."),
            ("ServerException", "Oops."),
            ("Odd", "x."),
        ] {
            let text = answered("RunTask", 500, code, said, &Subject::cluster("ci"));
            let text = diagnosis::explain_control(&text);
            assert!(!text.contains("tried again") && !text.contains(".."), "{text}");
        }
        let refusal = ControlError { message: "said.".into(), ..unavailable("RunTask", "it") };
        let text = diagnosis::explain_control(&refusal);
        assert!(text.starts_with("RunTask: said. Check"), "{text}");
    }
}
