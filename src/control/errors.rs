//! Errors of AWS calls as facts: the operation, its subject, the kind, and AWS's own text.
//!
//! `answers` classifies what AWS answered. `sdk` converts the SDK's errors: also those of calls that
//! were not answered. Here are the errors that the driver finds itself.

mod answers;
mod sdk;

pub(super) use answers::{launch_failure, query};
pub(super) use sdk::{causes, no_credentials, nowhere, refused};
use states::{
    ControlCause as Cause, ControlError, ControlErrorKind as Kind, LaunchSpec,
    foreign_text::clipped,
};

/// The subject of a call.
pub(super) struct Subject<'a> {
    cluster: &'a str,
    launch: Option<&'a LaunchSpec>,
    definition: &'a str,
}

impl<'a> Subject<'a> {
    pub(super) fn cluster(cluster: &'a str) -> Self {
        Self { cluster, launch: None, definition: "" }
    }

    /// A launch with this task definition.
    pub(super) fn launch(spec: &'a LaunchSpec, definition: &'a str) -> Self {
        Self { cluster: &spec.cluster, launch: Some(spec), definition }
    }

    /// A task definition.
    pub(super) fn definition(name: &'a str) -> Self {
        Self { cluster: "", launch: None, definition: name }
    }

    /// Lists the configured values, for a message that only says "invalid".
    fn parameters(&self) -> String {
        self.launch.map_or_else(String::new, |spec| {
            let groups = if spec.security_groups.is_empty() {
                "none".to_owned()
            } else {
                spec.security_groups.join(", ")
            };
            format!(
                ": container {}, subnets {}, security groups {groups}",
                spec.container,
                spec.subnets.join(", ")
            )
        })
    }
}

/// Makes the error of a malformed answer.
pub(super) fn nonsense(operation: &str, what: &str) -> ControlError {
    error_of(
        operation,
        Kind::BadAnswer,
        None,
        format!("the answer is not usable: {what}"),
        Cause::General,
    )
}

/// Makes the error of a request that the SDK refuses to build.
pub(super) fn unbuildable(operation: &str, why: &dyn std::error::Error) -> ControlError {
    error_of(
        operation,
        Kind::Other,
        None,
        format!("the request cannot be made: {why}"),
        Cause::Configuration,
    )
}

pub(super) fn unavailable(operation: &str, what: &str) -> ControlError {
    error_of(
        operation,
        Kind::Unavailable,
        None,
        format!("the service did not answer: {what}"),
        Cause::NoAnswer,
    )
}

/// Makes the error of a base definition that cannot be extended.
pub(super) fn unsuitable_definition(operation: &str, why: &dyn std::error::Error) -> ControlError {
    error_of(operation, Kind::TaskDefinition, None, why.to_string(), Cause::BaseDefinition)
}

/// Makes the error of files beside the snapshots that cannot be used.
pub(super) fn unusable_directory(operation: &str, what: &str) -> ControlError {
    error_of(operation, Kind::Other, None, what.to_owned(), Cause::Directory)
}

/// Makes the error that other processes of this manager register definitions all the time.
pub(super) fn registering(operation: &str) -> ControlError {
    let message = "other jobs of this runner manager are registering task definitions".to_owned();
    error_of(operation, Kind::Throttled, None, message, Cause::General)
}

/// Makes the error of a service without an endpoint.
pub(super) fn no_endpoint(operation: &str, service: &str, region: &str, why: &str) -> ControlError {
    let message = format!("{} has no such endpoint in {region}: {why}", service.to_uppercase());
    error_of(operation, Kind::WrongSetting, None, message, Cause::NoEndpoint)
}

/// Makes the error that neither the file nor the environment names a region.
pub(super) fn no_region(operation: &str) -> ControlError {
    error_of(
        operation,
        Kind::WrongSetting,
        None,
        "no AWS region is configured".to_owned(),
        Cause::NoRegion,
    )
}

fn error_of(
    operation: &str,
    kind: Kind,
    code: Option<String>,
    message: String,
    cause: Cause,
) -> ControlError {
    let code = code.map(|code| clipped(&code));
    ControlError { operation: operation.to_owned(), kind, code, message: clipped(&message), cause }
}
