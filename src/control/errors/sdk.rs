//! The SDK's errors as facts: an answer, none within the time, or no credentials to ask with.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ecs::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId as _,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use states::{
    ControlCause as Cause, ControlError, ControlErrorKind as Kind, foreign_text::clipped,
};

use super::{Subject, answers::answered, error_of, no_region, unavailable};
use crate::control::CALL_TIMEOUT;

/// Converts an error of a call.
pub(in crate::control) fn refused<E>(
    operation: &str,
    error: &SdkError<E, HttpResponse>,
    subject: &Subject<'_>,
) -> ControlError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let meta = service.err();
            let status = service.raw().status().as_u16();
            let mut refusal = answered(
                operation,
                status,
                meta.code().unwrap_or_default(),
                meta.message().unwrap_or_default(),
                subject,
            );
            if let Some(id) = error.request_id() {
                refusal.message =
                    format!("{} (request {id})", refusal.message.trim_end_matches('.'));
            }
            refusal
        }
        SdkError::ResponseError(response) => {
            // Not an answer of the protocol: a proxy's page, or a load balancer's.
            let status = response.raw().status().as_u16();
            unavailable(
                operation,
                &format!("it answered with HTTP status {status} and something that is not ECS's"),
            )
        }
        SdkError::TimeoutError(_) => unavailable(
            operation,
            &format!("it did not answer within {} s", CALL_TIMEOUT.as_secs()),
        ),
        other => {
            let text = causes(other);
            if found_none(other) {
                return nowhere(operation);
            }
            if text.to_lowercase().contains("credential") {
                return no_credentials(operation, other);
            }
            match other {
                SdkError::ConstructionFailure(_) if text.contains("region") => no_region(operation),
                SdkError::ConstructionFailure(_) => error_of(
                    operation,
                    Kind::Other,
                    None,
                    format!("the request cannot be made: {text}"),
                    Cause::Environment,
                ),
                _ => unavailable(operation, &text),
            }
        }
    }
}

/// Formats an error and its causes, without repetitions.
pub(in crate::control) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    clipped(&text)
}

/// Makes the error of credentials that could not be loaded.
pub(in crate::control) fn no_credentials(
    operation: &str,
    why: &(dyn std::error::Error + 'static),
) -> ControlError {
    if found_none(why) {
        return nowhere(operation);
    }
    let why = causes(why);
    error_of(
        operation,
        Kind::Credentials,
        None,
        format!("there are no usable AWS credentials: {why}"),
        Cause::General,
    )
}

/// Makes the error that no source on this machine has credentials.
pub(in crate::control) fn nowhere(operation: &str) -> ControlError {
    let message = "there are no AWS credentials: neither AWS_* variables, nor a profile, nor an instance profile".to_owned();
    error_of(operation, Kind::NoCredentials, None, message, Cause::General)
}

/// Whether no source has credentials, as opposed to a source that fails now.
fn found_none(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|error| error.downcast_ref::<CredentialsError>())
        .any(|e| matches!(e, CredentialsError::CredentialsNotLoaded(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_differ_from_those_that_cannot_be_loaded() {
        let none = CredentialsError::not_loaded("no providers in chain provided credentials");
        assert_eq!(no_credentials("RunTask", &none).kind, Kind::NoCredentials);
        assert_eq!(
            no_credentials("RunTask", &CredentialsError::provider_error("sso: expired")).kind,
            Kind::Credentials
        );
    }
}
