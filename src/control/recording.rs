//! Records calls to AWS: a span and a count for each.

use std::sync::{Mutex, PoisonError};

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
use states::{
    metric,
    trace::{self, SPANS},
};
use tracing::{Span, field::Empty};

use super::counts;

/// Records every call of an SDK client. Of requests and answers, it records only the error's code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recording;

#[derive(Debug)]
struct Started(CallSpan);

impl Storable for Started {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Recording {
    fn name(&self) -> &'static str {
        "Recording"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(Started(CallSpan::begin()));
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(Started(span)) = cfg.load::<Started>() else { return Ok(()) };
        let (service, operation) =
            cfg.load::<Metadata>().map_or(("", ""), |about| (about.service(), about.name()));
        let answer = context.response();
        let failed = !matches!(context.output_or_error(), Some(Ok(_)));
        let error = failed.then(|| {
            let code = answer.and_then(|answer| answer.body().bytes()).and_then(code);
            code.unwrap_or_else(|| {
                answer.map_or_else(
                    || "no_answer".to_owned(),
                    |answer| answer.status().as_u16().to_string(),
                )
            })
        });
        span.end(CallRecord {
            service,
            operation,
            status: answer.map(|answer| answer.status().as_u16()),
            request_id: answer.and_then(|answer| answer.headers().get("x-amzn-requestid")),
            attempts: cfg.load::<RequestAttempts>().map_or(1, |made| made.attempts()),
            error: error.as_deref(),
        });
        Ok(())
    }
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct CallRecord<'a> {
    pub(super) service: &'a str,
    pub(super) operation: &'a str,
    pub(super) status: Option<u16>,
    pub(super) request_id: Option<&'a str>,
    pub(super) attempts: u32,
    pub(super) error: Option<&'a str>,
}

/// The span of a call. Its end is the end of [`CallSpan::end`].
#[derive(Debug)]
pub(super) struct CallSpan(Mutex<Span>);

impl CallSpan {
    /// Begins the span. With telemetry off, it is disabled.
    pub(super) fn begin() -> Self {
        Self(Mutex::new(tracing::info_span!(
            target: SPANS,
            parent: &trace::stage(),
            "call",
            otel.name = Empty,
            otel.kind = "client",
            otel.status_description = Empty,
            rpc.system.name = "aws-api",
            rpc.method = Empty,
            http.request.resend_count = Empty,
            http.response.status_code = Empty,
            fargate.throttled = Empty,
            aws.request_id = Empty,
            error.type = Empty,
        )))
    }

    /// Ends the span, and counts the call.
    pub(super) fn end(&self, call: CallRecord<'_>) {
        // The configuration of a call lives longer than the call, so the span is taken out of it.
        let span = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            Span::none(),
        );
        let method = format!("{}/{}", call.service, call.operation);
        counts::count(&method, call.error);
        metric!(
            monotonic_counter.fargate.aws.calls = 1_u64,
            rpc.method = method,
            error.type = call.error
        );
        let is_throttled = call.error.is_some_and(|code| {
            [
                "ThrottlingException",
                "Throttling",
                "RequestLimitExceeded",
                "TooManyRequestsException",
                "429",
            ]
            .contains(&code)
        });
        span.record("otel.name", &method);
        span.record("rpc.method", &method);
        span.record("http.request.resend_count", i64::from(call.attempts.saturating_sub(1)));
        span.record("fargate.throttled", is_throttled);
        if let Some(status) = call.status {
            span.record("http.response.status_code", i64::from(status));
        }
        if let Some(id) = call.request_id {
            span.record("aws.request_id", id);
        }
        if let Some(error) = call.error {
            trace::fail(&span, error);
        }
    }
}

/// Extracts the error's code from an answer of AWS's JSON protocol, `{"__type": "namespace#Code",
/// …}`, or of its query protocol, `<Code>Code</Code>`.
pub(super) fn code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Error {
        #[serde(rename = "__type")]
        kind: String,
    }
    let code = match serde_json::from_slice::<Error>(body) {
        Ok(error) => error.kind.rsplit('#').next()?.to_owned(),
        Err(_) => {
            let document = roxmltree::Document::parse(std::str::from_utf8(body).ok()?).ok()?;
            document.descendants().find(|n| n.tag_name().name() == "Code")?.text()?.to_owned()
        }
    };
    (code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'))
        .then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_error_code_of_an_answer_is_recorded() {
        assert_eq!(
            code(br#"{"__type":"com.amazonaws.ecs#ClusterNotFoundException","message":"x"}"#)
                .as_deref(),
            Some("ClusterNotFoundException")
        );
        assert_eq!(code(br#"{"__type":"AKIA secret?query=1"}"#), None);
        assert_eq!(code(b"<html>"), None);
        let refusal =
            b"<Response><Errors><Error><Code>InvalidNetworkInterfaceID.NotFound</Code><Message>x</Message></Error></Errors></Response>";
        assert_eq!(code(refusal).as_deref(), Some("InvalidNetworkInterfaceID.NotFound"));
        assert_eq!(code(b"<Code>secret of others</Code>"), None);
    }
}
