//! Exports recorded data as OTLP requests. They are sent once, and spooled if that does not succeed
//! in time.

mod encode;
mod grpc;
mod http;
mod spool;

use std::{fmt, time::Instant};

use super::{
    Recorder,
    settings::{Protocol, Settings, Signal, origin},
};

/// Why a request was not accepted.
#[derive(Debug)]
enum ExportError {
    /// It may be accepted later.
    Later(String),
    /// It will never be accepted.
    Never(String),
}

/// The log line of signals that were not accepted for the same reason.
struct Problem {
    signals: Vec<&'static str>,
    endpoint: String,
    why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: {}", self.signals.join(", "), self.endpoint, self.why)
    }
}

/// Sends everything, within the time limit.
pub(super) async fn flush(recorder: &Recorder) {
    let recorded = recorder.take();
    let settings = &recorder.settings;
    let (first, others) = recorded
        .spools
        .split_first()
        .map_or((None, &[][..]), |(first, others)| (Some(first), others));
    let kept: Vec<(Signal, Vec<u8>)> =
        recorded.spools.iter().flat_map(|path| spool::read(path)).collect();
    let mut requests: Vec<(Signal, Vec<u8>)> = Vec::new();
    for signal in Signal::ALL.into_iter().filter(|signal| settings.exports(*signal)) {
        // A request is one repeated field, so two concatenated requests are one request (Protocol
        // Buffers, "Encoding", "Last One Wins").
        let mut request: Vec<u8> = kept
            .iter()
            .filter(|(of, _)| *of == signal)
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        request.extend(encode::request(signal, &recorded, recorder));
        if !request.is_empty() {
            requests.push((signal, request));
        }
    }
    if requests.is_empty() {
        return;
    }
    let deadline = tokio::time::Instant::from_std(Instant::now() + settings.flush_timeout);
    let mut failed: Vec<(Signal, Vec<u8>)> = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    let (traces, metrics, logs) = tokio::join!(
        one(settings, requests.iter().find(|(of, _)| *of == Signal::Traces), deadline),
        one(settings, requests.iter().find(|(of, _)| *of == Signal::Metrics), deadline),
        one(settings, requests.iter().find(|(of, _)| *of == Signal::Logs), deadline),
    );
    for (signal, result) in
        [(Signal::Traces, traces), (Signal::Metrics, metrics), (Signal::Logs, logs)]
    {
        let Err(error) = result else { continue };
        let (ExportError::Later(why) | ExportError::Never(why)) = &error;
        let endpoint = settings.address(signal).map_or_else(String::new, |url| origin(&url));
        match problems
            .iter_mut()
            .find(|problem| problem.why == *why && problem.endpoint == endpoint)
        {
            Some(problem) => problem.signals.push(signal.name()),
            None => {
                problems.push(Problem { signals: vec![signal.name()], endpoint, why: why.clone() })
            }
        }
        if let ExportError::Later(_) = error {
            failed.extend(requests.iter().find(|(of, _)| *of == signal).cloned());
        }
    }
    let left_out = first.map_or(failed.len(), |path| spool::replace(path, &failed));
    for path in others {
        spool::replace(path, &[]);
    }
    if !problems.is_empty() {
        let outcome = match (failed.is_empty(), left_out) {
            (true, _) => "it is dropped",
            (false, 0) if recorded.over => "it is kept for `fargate reap`",
            (false, 0) => "it is kept for the job's next process",
            (false, _) => "it is dropped where it did not fit beside the snapshot",
        };
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        tracing::warn!(
            "telemetry was not taken by the collector: {}; {outcome}. The job is not affected.",
            problems.join("; ")
        );
    }
}

async fn one(
    settings: &Settings,
    request: Option<&(Signal, Vec<u8>)>,
    deadline: tokio::time::Instant,
) -> Result<(), ExportError> {
    let Some((signal, request)) = request else { return Ok(()) };
    let Some(address) = settings.address(*signal) else { return Ok(()) };
    let sending = async {
        match settings.protocol {
            Protocol::Http => http::send(settings, &address, request).await,
            Protocol::Grpc => grpc::send(settings, *signal, &address, request).await,
        }
    };
    tokio::time::timeout_at(deadline, sending).await.unwrap_or_else(|_| {
        Err(ExportError::Later(format!(
            "no answer within {}",
            humantime::format_duration(settings.flush_timeout)
        )))
    })
}

/// Formats an error with its causes, without the queries of addresses.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
