//! Records AWS calls of the SDK's clients.

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

/// Records every call of an SDK client. Of requests and answers, it records only the error's code.
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

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
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
        let (Some(recorder), Some(Started(start))) = (recorder(), cfg.load::<Started>()) else {
            return Ok(());
        };
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
        let call = CallRecord {
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
pub(crate) struct CallRecord<'a> {
    pub(crate) service: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) start: u64,
    pub(crate) status: Option<u16>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) error: Option<String>,
}

impl CallRecord<'_> {
    pub(crate) fn record(self, recorder: &super::Recorder) {
        let method = format!("{}/{}", self.service, self.operation);
        let mut counted: Attributes = vec![("rpc.method", method.as_str().into())];
        counted.extend(self.error.iter().map(|error| ("error.type", Value::from(error.as_str()))));
        recorder.count("fargate.aws.calls", counted, 1);
        let throttled = self.error.as_deref().is_some_and(|code| {
            [
                "ThrottlingException",
                "Throttling",
                "RequestLimitExceeded",
                "TooManyRequestsException",
                "429",
            ]
            .contains(&code)
        });
        let mut attributes: Attributes = vec![
            ("rpc.system.name", "aws-api".into()),
            ("rpc.method", method.as_str().into()),
            ("http.request.resend_count", i64::from(self.attempts.saturating_sub(1)).into()),
            ("fargate.throttled", throttled.into()),
        ];
        attributes.extend(
            self.status.map(|status| ("http.response.status_code", i64::from(status).into())),
        );
        attributes.extend(self.request_id.map(|id| ("aws.request_id", id.into())));
        recorder.called(method, self.start, attributes, self.error);
    }
}

/// Extracts the error's code from an answer of AWS's JSON protocol, `{"__type": "namespace#Code",
/// …}`, or of its query protocol, `<Code>Code</Code>`.
pub(crate) fn code(body: &[u8]) -> Option<String> {
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
