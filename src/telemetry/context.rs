//! A job's position in a trace: W3C Trace Context (<https://www.w3.org/TR/trace-context/>) and
//! sampling.

use std::collections::HashMap;

use opentelemetry::{
    Context as OtelContext, TraceFlags,
    propagation::TextMapPropagator as _,
    trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceId, TraceState},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{
        IdGenerator as _, RandomIdGenerator, Sampler as SdkSampler, SamplingDecision, ShouldSample,
    },
};
use serde::{Deserialize, Serialize};

use super::Beginning;
use crate::config::Telemetry;

/// Longest `tracestate` that is passed on, in characters (W3C Trace Context, section 3.3.1.5).
const LONGEST_STATE: usize = 512;

/// A job's position in its trace, the same in all of its processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Context {
    /// `traceparent` of the job's own span.
    root: String,
    /// Its parent's span id, hexadecimal, where the pipeline is traced.
    parent: Option<String>,
    /// `tracestate`, where the pipeline is traced.
    state: String,
}

impl Context {
    /// Returns a new job's context. Without an incoming `traceparent`, the trace id is the job's
    /// own, so that all attempts at one job are in one trace.
    pub(super) fn begin(job: &Beginning, settings: &Telemetry) -> Self {
        let ids = RandomIdGenerator::default();
        let own = job.trace_id.map_or_else(|| ids.new_trace_id(), TraceId::from_bytes);
        let incoming = job.parent.as_deref().and_then(|parent| {
            parse(parent, job.state.as_deref().filter(|state| is_printable(state)).unwrap_or(""))
        });
        let sampled = is_sampled(settings, own, incoming.as_ref());
        let root = SpanContext::new(
            incoming.as_ref().map_or(own, SpanContext::trace_id),
            ids.new_span_id(),
            TraceFlags::NOT_SAMPLED.with_sampled(sampled),
            true,
            TraceState::NONE,
        );
        Self {
            root: traceparent(&root),
            parent: incoming.as_ref().map(|parent| parent.span_id().to_string()),
            state: incoming.map(|parent| parent.trace_state().header()).unwrap_or_default(),
        }
    }

    /// Parses the context in a snapshot.
    pub(super) fn recover(root: &str) -> Option<Self> {
        parse(root, "")?;
        Some(Self { root: root.to_owned(), parent: None, state: String::new() })
    }

    /// Returns the job's own span; `None` if others have changed the file.
    pub(super) fn root(&self) -> Option<SpanContext> {
        parse(&self.root, &self.state)
    }

    /// Returns the pipeline's span.
    pub(super) fn parent(&self) -> SpanId {
        let parent = self.parent.as_deref().and_then(|id| SpanId::from_hex(id).ok());
        parent.unwrap_or(SpanId::INVALID)
    }
}

/// Formats a `traceparent`, version 00.
pub(super) fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags())
}

/// Parses a `traceparent`. It may come from a project: anything but an exact one is rejected.
fn parse(parent: &str, state: &str) -> Option<SpanContext> {
    // The SDK's parser also takes short ids, signs and spaces.
    let mut lengths = parent.split('-').map(str::len);
    let is_exact = [2, 32, 16, 2].iter().all(|length| lengths.next() == Some(*length))
        && !parent.contains(|c: char| c != '-' && !c.is_ascii_alphanumeric());
    let fields = HashMap::from([
        ("traceparent".to_owned(), parent.to_owned()),
        ("tracestate".to_owned(), state.to_owned()),
    ]);
    let extracted =
        TraceContextPropagator::new().extract_with_context(&OtelContext::new(), &fields);
    let span = extracted.span().span_context().clone();
    (is_exact && span.is_valid()).then_some(span)
}

fn is_printable(text: &str) -> bool {
    text.len() <= LONGEST_STATE && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// Whether a job is recorded. `own` is the trace id that the job has without a parent.
///
/// A job's variables are its user's: both the parent's flag and its trace id could raise the rate.
/// Unless the administrator trusts them, the sampler must agree on the job's own trace id.
fn is_sampled(settings: &Telemetry, own: TraceId, parent: Option<&SpanContext>) -> bool {
    let base = SdkSampler::TraceIdRatioBased(settings.sampler.ratio);
    let sampler = match settings.sampler.parent_based {
        true => SdkSampler::ParentBased(Box::new(base)),
        false => base,
    };
    let agrees = |parent: Option<&SpanContext>, trace: TraceId| {
        let parent =
            parent.map(|parent| OtelContext::new().with_remote_span_context(parent.clone()));
        let result =
            sampler.should_sample(parent.as_ref(), trace, "job", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    };
    match parent {
        Some(parent) if settings.trust_job_traceparent => agrees(Some(parent), parent.trace_id()),
        Some(parent) => agrees(None, own) && agrees(Some(parent), own),
        None => agrees(None, own),
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{config::Sampler, telemetry::defaults};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn begin(parent: Option<&str>, state: Option<&str>, settings: &Telemetry) -> SpanContext {
        let job = Beginning {
            trace_id: Some([7; 16]),
            parent: parent.map(str::to_owned),
            state: state.map(str::to_owned),
        };
        Context::begin(&job, settings).root().unwrap()
    }

    #[test]
    fn traceparents_round_trip() {
        assert_eq!(traceparent(&parse(PARENT, "").unwrap()), PARENT);
    }

    #[test]
    fn invalid_traceparents_are_ignored() {
        for bad in [
            "",
            "00",
            "00-1-1-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'; rm -rf /; '",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad, ""), None, "{bad}");
        }
    }

    #[test]
    fn attempts_at_one_job_share_a_trace_and_have_spans_of_their_own() {
        let settings = defaults();
        let (first, second) = (begin(None, None, &settings), begin(None, None, &settings));
        assert_eq!(first.trace_id(), second.trace_id());
        assert_ne!(first.span_id(), second.span_id());
        assert!(first.is_sampled());
        let random = || Context::begin(&Beginning::default(), &settings).root().unwrap().trace_id();
        assert_ne!(random(), random());
    }

    #[test]
    fn a_traced_pipeline_is_the_jobs_parent() {
        let settings = defaults();
        let job = Beginning {
            parent: Some(PARENT.to_owned()),
            state: Some("vendor=1".to_owned()),
            ..Beginning::default()
        };
        let (context, parent) = (Context::begin(&job, &settings), parse(PARENT, "").unwrap());
        let root = context.root().unwrap();
        assert_eq!((root.trace_id(), context.parent()), (parent.trace_id(), parent.span_id()));
        assert_eq!(root.trace_state().header(), "vendor=1");
        let off = begin(Some(&PARENT.replace("-01", "-00")), Some("a\nb"), &settings);
        assert_eq!((off.is_sampled(), off.trace_state().header().as_str()), (false, ""));
    }

    #[test]
    fn a_jobs_traceparent_cannot_raise_the_sampling_rate() {
        // A ratio samples the trace ids with low last bytes: this one of every ratio above zero.
        let chosen = "00-0af7651916cd43dd0000000000000001-b7ad6b7169203331-01";
        for ratio in [0.0, 0.01] {
            for parent_based in [true, false] {
                let mut settings =
                    Telemetry { sampler: Sampler { ratio, parent_based }, ..defaults() };
                assert!(!begin(Some(chosen), None, &settings).is_sampled());
                settings.trust_job_traceparent = true;
                assert_eq!(
                    begin(Some(chosen), None, &settings).is_sampled(),
                    parent_based || ratio > 0.0
                );
            }
        }
    }

    #[test]
    fn a_ratio_samples_its_share() {
        let settings =
            Telemetry { sampler: Sampler { ratio: 0.25, parent_based: true }, ..defaults() };
        let sampled = (0..10_000_u64).filter(|n| {
            let mut trace = [0; 16];
            trace.copy_from_slice(&Sha256::digest(n.to_be_bytes())[..16]);
            is_sampled(&settings, TraceId::from_bytes(trace), None)
        });
        let sampled = sampled.count();
        assert!((2300..2700).contains(&sampled), "{sampled}");
    }
}
