//! A job's position in a trace: W3C Trace Context (<https://www.w3.org/TR/trace-context/>) and
//! sampling.

use std::collections::HashMap;

use opentelemetry::{
    Context as OtelContext, TraceFlags,
    propagation::TextMapPropagator as _,
    trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceId},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _},
};

use crate::config::Telemetry;

/// Longest `tracestate` that is passed on, in characters (W3C Trace Context, section 3.3.1.5).
const LONGEST_STATE: usize = 512;

/// Returns the own span of a new job, and its parent's id. `parent` and `state` are the job's
/// `TRACEPARENT` and `TRACESTATE`. Without a usable one, the trace id is the job's own, so that all
/// attempts at one job are in one trace.
pub(super) fn begin(
    own: Option<[u8; 16]>,
    parent: Option<&str>,
    state: Option<&str>,
    settings: &Telemetry,
) -> (SpanContext, SpanId) {
    let ids = RandomIdGenerator::default();
    let own = own.map_or_else(|| ids.new_trace_id(), TraceId::from_bytes);
    let is_printable = |text: &&str| {
        text.len() <= LONGEST_STATE && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    let state = state.filter(is_printable).unwrap_or_default();
    let parent = parent.and_then(|parent| parse(parent, state));
    let flags = TraceFlags::NOT_SAMPLED.with_sampled(is_sampled(settings, own, parent.as_ref()));
    let trace = parent.as_ref().map_or(own, SpanContext::trace_id);
    let parent = parent.unwrap_or(SpanContext::NONE);
    let state = parent.trace_state().clone();
    (SpanContext::new(trace, ids.new_span_id(), flags, true, state), parent.span_id())
}

/// Returns a new span beside another one of the same trace.
pub(super) fn beside(other: &SpanContext) -> SpanContext {
    let (id, state) = (RandomIdGenerator::default().new_span_id(), other.trace_state().clone());
    SpanContext::new(other.trace_id(), id, other.trace_flags(), false, state)
}

/// Formats a `traceparent`, version 00.
pub(super) fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags())
}

/// Parses a `traceparent`. It may come from a project: anything but an exact one is rejected.
pub(super) fn parse(parent: &str, state: &str) -> Option<SpanContext> {
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

/// Whether a job is recorded. `own` is the trace id that the job has without a parent.
///
/// A job's variables are its user's: both the parent's flag and its trace id could raise the rate.
/// Unless the administrator trusts them, the sampler must agree on the job's own trace id.
fn is_sampled(settings: &Telemetry, own: TraceId, parent: Option<&SpanContext>) -> bool {
    let base = Sampler::TraceIdRatioBased(settings.sampler.ratio);
    let sampler = match settings.sampler.parent_based {
        true => Sampler::ParentBased(Box::new(base)),
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
        _ => agrees(None, own) && agrees(parent, own),
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{config, telemetry::defaults};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(parent: Option<&str>, state: Option<&str>, settings: &Telemetry) -> SpanContext {
        begin(Some([7; 16]), parent, state, settings).0
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
        let (first, second) = (of(None, None, &settings), of(None, None, &settings));
        assert_eq!(first.trace_id(), second.trace_id());
        assert_ne!(first.span_id(), second.span_id());
        assert!(first.is_sampled());
        let random = || begin(None, None, None, &settings).0.trace_id();
        assert_ne!(random(), random());
    }

    #[test]
    fn a_traced_pipeline_is_the_jobs_parent() {
        let settings = defaults();
        let (root, id) = begin(None, Some(PARENT), Some("vendor=1"), &settings);
        let parent = parse(PARENT, "").unwrap();
        assert_eq!((root.trace_id(), id), (parent.trace_id(), parent.span_id()));
        assert_eq!(root.trace_state().header(), "vendor=1");
        let off = of(Some(&PARENT.replace("-01", "-00")), Some("a\nb"), &settings);
        assert_eq!((off.is_sampled(), off.trace_state().header().as_str()), (false, ""));
    }

    #[test]
    fn a_jobs_traceparent_cannot_raise_the_sampling_rate() {
        // A ratio samples the trace ids with low last bytes: this one of every ratio above zero.
        let chosen = "00-0af7651916cd43dd0000000000000001-b7ad6b7169203331-01";
        for ratio in [0.0, 0.01] {
            for parent_based in [true, false] {
                let mut settings =
                    Telemetry { sampler: config::Sampler { ratio, parent_based }, ..defaults() };
                assert!(!of(Some(chosen), None, &settings).is_sampled());
                settings.trust_job_traceparent = true;
                assert_eq!(
                    of(Some(chosen), None, &settings).is_sampled(),
                    parent_based || ratio > 0.0
                );
            }
        }
    }

    #[test]
    fn a_ratio_samples_its_share() {
        let settings = Telemetry {
            sampler: config::Sampler { ratio: 0.25, parent_based: true },
            ..defaults()
        };
        let sampled = (0..10_000_u64).filter(|n| {
            let mut trace = [0; 16];
            trace.copy_from_slice(&Sha256::digest(n.to_be_bytes())[..16]);
            is_sampled(&settings, TraceId::from_bytes(trace), None)
        });
        let sampled = sampled.count();
        assert!((2300..2700).contains(&sampled), "{sampled}");
    }
}
