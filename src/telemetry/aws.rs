//! AWS calls, as the SDK makes them.

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef},
        },
        orchestrator::Metadata,
        retries::RequestAttempts,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use super::{
    recorder, span,
    span::{Attributes, Value},
};

/// Records every call of an SDK client. Nothing of a request's or an answer's content is recorded but the error's code.
#[derive(Debug, Clone, Copy)]
pub struct Recording;

#[derive(Debug)]
struct Started(u64);

impl Storable for Started {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Recording {
    fn name(&self) -> &'static str {
        "Recording"
    }

    fn read_before_execution(&self, _: &BeforeSerializationInterceptorContextRef<'_>, cfg: &mut ConfigBag) -> Result<(), BoxError> {
        if recorder().is_some() {
            cfg.interceptor_state().store_put(Started(span::now()));
        }
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (Some(recorder), Some(Started(start))) = (recorder(), cfg.load::<Started>()) else { return Ok(()) };
        let (service, operation) = cfg.load::<Metadata>().map_or(("", ""), |about| (about.service(), about.name()));
        let answer = context.response();
        let failed = !matches!(context.output_or_error(), Some(Ok(_)));
        let error = failed.then(|| {
            let code = answer.and_then(|answer| answer.body().bytes()).and_then(code);
            code.unwrap_or_else(|| answer.map_or_else(|| "no_answer".to_owned(), |answer| answer.status().as_u16().to_string()))
        });
        let call = Call {
            service,
            operation,
            start: *start,
            status: answer.map(|answer| answer.status().as_u16()),
            request_id: answer.and_then(|answer| answer.headers().get("x-amzn-requestid")),
            attempts: cfg.load::<RequestAttempts>().map_or(1, |made| made.attempts()),
            error,
        };
        call.record(recorder);
        Ok(())
    }
}

/// One call that is over.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) start: u64,
    pub(crate) status: Option<u16>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) error: Option<String>,
}

impl Call<'_> {
    pub(crate) fn record(self, recorder: &super::Recorder) {
        let mut counted: Attributes = vec![("rpc.service", self.service.into()), ("rpc.method", self.operation.into())];
        counted.extend(self.error.iter().map(|error| ("error.type", Value::from(error.as_str()))));
        recorder.count("fargate.aws.calls", counted, 1);
        let throttled = self.error.as_deref().is_some_and(|code| {
            ["ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException", "429"].contains(&code)
        });
        let mut attributes: Attributes = vec![
            ("rpc.system", "aws-api".into()),
            ("rpc.service", self.service.into()),
            ("rpc.method", self.operation.into()),
            ("http.request.resend_count", i64::from(self.attempts.saturating_sub(1)).into()),
            ("aws.throttled", throttled.into()),
        ];
        attributes.extend(self.status.map(|status| ("http.response.status_code", i64::from(status).into())));
        attributes.extend(self.request_id.map(|id| ("aws.request_id", id.into())));
        recorder.called(format!("{}/{}", self.service, self.operation), self.start, attributes, self.error);
    }
}

/// The error's code in an answer of AWS's JSON protocol: `{"__type": "namespace#Code", …}`.
fn code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Error {
        #[serde(rename = "__type")]
        kind: String,
    }
    let kind = serde_json::from_slice::<Error>(body).ok()?.kind;
    let code = kind.rsplit('#').next()?;
    (code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_all_that_is_taken_from_an_answer() {
        assert_eq!(
            code(br#"{"__type":"com.amazonaws.ecs#ClusterNotFoundException","message":"x"}"#).as_deref(),
            Some("ClusterNotFoundException")
        );
        assert_eq!(code(br#"{"__type":"AKIA secret?query=1"}"#), None);
        assert_eq!(code(b"<html>"), None);
    }
}
