//! A job's position in a trace: W3C Trace Context (<https://www.w3.org/TR/trace-context/>) and
//! sampling.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::Sampler;

/// Longest `tracestate` that is passed on, in characters (W3C Trace Context, section 3.3.1.5).
const LONGEST_STATE: usize = 512;

/// `traceparent`, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Traceparent {
    /// Parses a `traceparent`. It may come from a project: anything but an exact one is rejected.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = bytes::<1>(version)?[0];
        // A later version may have more parts; ff is forbidden.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let parsed = Self {
            trace: bytes(trace)?,
            span: bytes(span)?,
            sampled: bytes::<1>(flags)?[0] & 1 == 1,
        };
        (parsed.trace != [0; 16] && parsed.span != [0; 8]).then_some(parsed)
    }
}

impl std::fmt::Display for Traceparent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "00-{}-{}-0{}",
            hex::encode(self.trace),
            hex::encode(self.span),
            u8::from(self.sampled)
        )
    }
}

/// Decodes lower-case hexadecimal of exactly `N` bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// A job's position in its trace, the same in all of its processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// `traceparent` of the job's own span.
    root: String,
    /// Its parent's span id, hexadecimal, where the pipeline is traced.
    parent: Option<String>,
    /// `tracestate`, where the pipeline is traced.
    state: String,
}

impl Context {
    /// Returns a new job's context. Without an incoming `traceparent`, the trace id is derived from
    /// the job's id, so that all attempts at one job are in one trace.
    #[must_use]
    pub fn begin(
        job: &str,
        incoming: Option<&str>,
        state: Option<&str>,
        sampler: &Sampler,
    ) -> Self {
        let incoming = incoming.and_then(Traceparent::parse);
        let trace = incoming.map_or_else(
            || {
                let hash = Sha256::digest(format!("fargate-driver trace {job}"));
                let mut trace = [0; 16];
                trace.copy_from_slice(&hash[..16]);
                trace
            },
            |parent| parent.trace,
        );
        let sampled = sampler.samples(&trace, incoming.map(|parent| parent.sampled));
        let printable = |text: &&str| {
            text.len() <= LONGEST_STATE && text.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        Self {
            root: Traceparent { trace, span: new_id(), sampled }.to_string(),
            parent: incoming.map(|parent| hex::encode(parent.span)),
            state: state
                .filter(|_| incoming.is_some())
                .filter(printable)
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// Parses the context in a snapshot.
    #[must_use]
    pub fn recover(root: &str) -> Option<Self> {
        Traceparent::parse(root)?;
        Some(Self { root: root.to_owned(), parent: None, state: String::new() })
    }

    /// Returns the job's own span; `None` if others have changed the file.
    #[must_use]
    pub fn root(&self) -> Option<Traceparent> {
        Traceparent::parse(&self.root)
    }

    /// Returns the job's own span, as text.
    #[must_use]
    pub fn root_text(&self) -> &str {
        &self.root
    }

    /// Returns the pipeline's span.
    #[must_use]
    pub fn parent(&self) -> Option<[u8; 8]> {
        self.parent.as_deref().and_then(bytes)
    }

    /// Returns `tracestate`.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }
}

/// Returns a new span id.
#[must_use]
pub fn new_id() -> [u8; 8] {
    // Zero means "no span", so a random zero becomes 1.
    rand::random::<u64>().max(1).to_be_bytes()
}

/// Parses a span id.
#[must_use]
pub fn parse_id(text: &str) -> Option<[u8; 8]> {
    bytes(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Sampler = Sampler { ratio: 1.0, parent_based: true };

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn traceparents_round_trip() {
        assert_eq!(Traceparent::parse(PARENT).unwrap().to_string(), PARENT);
    }

    #[test]
    fn invalid_traceparents_are_ignored() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'; rm -rf /; '",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn attempts_at_one_job_share_a_trace_and_have_spans_of_their_own() {
        let begin = || Context::begin("job-1", None, None, &ALWAYS).root().unwrap();
        let (first, second) = (begin(), begin());
        assert_eq!(first.trace, second.trace);
        assert_ne!(first.span, second.span);
        assert!(first.sampled);
        assert_ne!(first.trace, Context::begin("job-2", None, None, &ALWAYS).root().unwrap().trace);
    }

    #[test]
    fn a_traced_pipeline_is_the_jobs_parent() {
        let context = Context::begin("job", Some(PARENT), Some("vendor=1"), &ALWAYS);
        let parent = Traceparent::parse(PARENT).unwrap();
        assert_eq!(context.root().unwrap().trace, parent.trace);
        assert_eq!(context.parent(), Some(parent.span));
        assert_eq!(context.state(), "vendor=1");
        let off = PARENT.replace("-01", "-00");
        assert!(!Context::begin("job", Some(&off), Some("a\nb"), &ALWAYS).root().unwrap().sampled);
        assert_eq!(Context::begin("job", Some(&off), Some("a\nb"), &ALWAYS).state(), "");
    }
}
