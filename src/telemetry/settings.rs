//! Settings of telemetry: `[Telemetry]` in `fargate.toml`, and the standard `OTEL_*` variables,
//! which override it (OpenTelemetry, "Environment Variable Specification", "OTLP Exporter
//! Configuration").

use std::{borrow::Cow, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;

/// A kind of exported data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// The driver's own log.
    Logs,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Returns its name in paths and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// The transport protocol of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP, port 4318 by custom.
    Http,
    /// gRPC, port 4317 by custom.
    Grpc,
}

/// The protocols, by their names in `OTEL_EXPORTER_OTLP_PROTOCOL`.
pub const PROTOCOLS: &[(&str, Protocol)] =
    &[("http/protobuf", Protocol::Http), ("grpc", Protocol::Grpc)];

/// Which jobs are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// Fraction of the traces that are recorded, 0 to 1.
    pub ratio: f64,
    /// Whether a traced pipeline decides for its jobs.
    pub parent_based: bool,
}

impl Eq for Sampler {}

impl Sampler {
    /// Parses values of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    #[must_use]
    pub fn by_name(name: &str, argument: Option<&str>) -> Option<Self> {
        let (parent_based, base) =
            name.strip_prefix("parentbased_").map_or((false, name), |base| (true, base));
        let ratio = match base {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument.map_or(Some(1.0), |text| {
                text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
            })?,
            _ => return None,
        };
        Some(Self { ratio, parent_based })
    }

    /// Whether this trace is recorded. The answer is the same in every process.
    #[must_use]
    pub fn samples(&self, trace: &[u8; 16], parent: Option<bool>) -> bool {
        if let (true, Some(sampled)) = (self.parent_based, parent) {
            return sampled;
        }
        // As in OpenTelemetry's SDKs: the trace id's last 56 bits are random.
        let random = trace[9..].iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2^56"
        )]
        let bound = (self.ratio * (1_u64 << 56) as f64) as u64;
        random < bound
    }
}

/// `[Telemetry]`, before or after the environment's overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address for all signals without one of their own. Without any address, telemetry is off.
    pub endpoint: Option<String>,
    /// Addresses of single signals, complete with their paths.
    pub endpoints: Vec<(Signal, String)>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Headers of every request, for authentication. Secret.
    pub headers: Vec<(String, String)>,
    /// CA certificates (PEM) for the collector's certificate, instead of the system's.
    pub certificate: Option<PathBuf>,
    /// `service.name`.
    pub service: String,
    /// Resource attributes of the administrator's own.
    pub resource: Vec<(String, String)>,
    /// Which jobs are traced.
    pub sampler: Sampler,
    /// Time limit of all exports of one process.
    pub flush_timeout: Duration,
    /// Which signals are exported.
    pub signals: Vec<Signal>,
    /// Whether scripts get `TRACEPARENT`.
    pub propagate: bool,
    /// OTLP address that scripts get, with `propagate`.
    pub job_endpoint: Option<String>,
}

impl Settings {
    /// Whether anything is exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.signals.iter().any(|signal| self.address(*signal).is_some())
    }

    /// Whether this signal is exported.
    #[must_use]
    pub fn exports(&self, signal: Signal) -> bool {
        self.signals.contains(&signal) && self.address(signal).is_some()
    }

    /// Returns a signal's address.
    #[must_use]
    pub fn address(&self, signal: Signal) -> Option<String> {
        let own = self.endpoints.iter().find(|(of, _)| *of == signal).map(|(_, url)| url.clone());
        own.or_else(|| {
            let base = self.endpoint.as_ref()?;
            Some(match self.protocol {
                Protocol::Http => format!("{}/v1/{}", base.trim_end_matches('/'), signal.name()),
                Protocol::Grpc => base.clone(),
            })
        })
    }

    /// Applies the environment's overrides. Also returns a message for each variable that cannot be
    /// used.
    #[must_use]
    pub fn overridden(mut self, variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut complaints = Vec::new();
        let mut unusable = |name: &str, expected: &str| {
            complaints.push(format!("{name} cannot be used and is ignored: expected {expected}"))
        };
        match variable("OTEL_EXPORTER_OTLP_ENDPOINT") {
            Some(url) if is_address(&url) => self.endpoint = Some(url),
            Some(_) => unusable("OTEL_EXPORTER_OTLP_ENDPOINT", ADDRESS),
            None => {}
        }
        if let Some(name) = variable("OTEL_EXPORTER_OTLP_PROTOCOL") {
            match PROTOCOLS.iter().find(|(known, _)| *known == name) {
                Some((_, protocol)) => self.protocol = *protocol,
                None => unusable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf or grpc"),
            }
        }
        if let Some(list) = variable("OTEL_EXPORTER_OTLP_HEADERS") {
            match pairs(&list) {
                Some(headers) => merge(&mut self.headers, headers),
                None => unusable("OTEL_EXPORTER_OTLP_HEADERS", "name=value,name=value"),
            }
        }
        if let Some(list) = variable("OTEL_RESOURCE_ATTRIBUTES") {
            match pairs(&list) {
                Some(attributes) => merge(&mut self.resource, attributes),
                None => unusable("OTEL_RESOURCE_ATTRIBUTES", "name=value,name=value"),
            }
        }
        if let Some(at) = self.resource.iter().position(|(name, _)| name == "service.name") {
            self.service = self.resource.remove(at).1;
        }
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            self.service = name;
        }
        if let Some(path) = variable("OTEL_EXPORTER_OTLP_CERTIFICATE") {
            self.certificate = Some(path.into());
        }
        if let Some(name) = variable("OTEL_TRACES_SAMPLER") {
            match Sampler::by_name(&name, variable("OTEL_TRACES_SAMPLER_ARG").as_deref()) {
                Some(sampler) => self.sampler = sampler,
                None => unusable(
                    "OTEL_TRACES_SAMPLER",
                    "always_on, always_off, traceidratio or these after parentbased_",
                ),
            }
        }
        // It can only shorten the limit: its default, 10 s, is for processes that live longer.
        if let Some(text) = variable("OTEL_EXPORTER_OTLP_TIMEOUT") {
            match text.parse() {
                Ok(millis) => {
                    self.flush_timeout = self.flush_timeout.min(Duration::from_millis(millis))
                }
                Err(_) => unusable("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds"),
            }
        }
        for signal in Signal::ALL {
            let upper = signal.name().to_uppercase();
            let name = format!("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT");
            match variable(&name) {
                Some(url) if is_address(&url) => {
                    self.endpoints.retain(|(of, _)| *of != signal);
                    self.endpoints.push((signal, url));
                }
                Some(_) => unusable(&name, ADDRESS),
                None => {}
            }
            match variable(&format!("OTEL_{upper}_EXPORTER")).as_deref() {
                Some("none") => self.signals.retain(|of| *of != signal),
                Some("otlp") if !self.signals.contains(&signal) => self.signals.push(signal),
                Some("otlp") | None => {}
                Some(_) => unusable(&format!("OTEL_{upper}_EXPORTER"), "otlp or none"),
            }
        }
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.signals.clear();
        }
        (self, complaints)
    }
}

const ADDRESS: &str = "an address such as http://127.0.0.1:4318";

/// Whether this can be a collector's address, in the file and the environment alike.
#[must_use]
pub fn is_address(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && url.parse::<http::Uri>().is_ok()
}

/// Returns scheme, host and port of an address, for messages. User, password, path and query may
/// each hold a secret.
#[must_use]
pub fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{}", authority.rsplit('@').next().unwrap_or_default())
}

/// Parses `name=value,…`, with percent-encoded values (W3C Baggage).
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    list.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim().to_owned(), decoded(value.trim())?))
        })
        .collect()
}

/// Decodes percent-encoded UTF-8. `None` if a `%` is not before two hexadecimal digits.
fn decoded(text: &str) -> Option<String> {
    let is_encoded =
        |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    let is_valid = text.split('%').skip(1).all(is_encoded);
    is_valid.then(|| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)).flatten()
}

/// Adds `more` to `all`, replacing equal names.
fn merge(all: &mut Vec<(String, String)>, more: Vec<(String, String)>) {
    for (name, value) in more {
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn defaults() -> Settings {
        let least = "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'";
        Config::parse(least, Path::new("fargate.toml")).unwrap().0.telemetry
    }

    fn with(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        defaults().overridden(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn off_without_an_endpoint() {
        assert!(!with(&[]).0.is_on());
        let disabled =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "true")];
        assert!(!with(&disabled).0.is_on());
    }

    #[test]
    fn the_standard_variables_override_the_file() {
        let (settings, complaints) = with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m/custom"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x = y"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,team=ci"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ]);
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!(settings.address(Signal::Traces).unwrap(), "http://c:4318/v1/traces");
        assert_eq!(settings.address(Signal::Metrics).unwrap(), "http://m/custom");
        assert_eq!(
            settings.headers,
            [("api-key".to_owned(), "a b".to_owned()), ("x".to_owned(), "y".to_owned())]
        );
        assert_eq!((settings.service.as_str(), settings.resource.len()), ("mine", 1));
        assert_eq!(settings.sampler, Sampler { ratio: 0.25, parent_based: false });
        assert!(settings.exports(Signal::Logs));
    }

    #[test]
    fn unusable_settings_are_named() {
        let (settings, complaints) = with(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
        ]);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert_eq!(settings.flush_timeout, defaults().flush_timeout);
    }

    #[test]
    fn addresses_in_the_environment_are_checked_like_those_in_the_file() {
        for bad in ["localhost:4318", "http://", "ftp://c", "http://c d"] {
            let (settings, complaints) = with(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", bad),
                ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", bad),
            ]);
            assert!(!settings.is_on(), "{bad}");
            assert_eq!(complaints.len(), 2, "{complaints:?}");
            assert!(
                complaints[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT")
                    && complaints[0].contains("http://127.0.0.1:4318"),
                "{complaints:?}"
            );
        }
    }

    #[test]
    fn messages_about_addresses_hold_no_secret() {
        assert_eq!(
            origin("https://me:secret@c.example:4318/token/v1/traces?key=x"),
            "https://c.example:4318"
        );
    }

    #[test]
    fn a_ratio_samples_its_share() {
        let sampler = Sampler { ratio: 0.25, parent_based: true };
        let traces = (0..10_000_u64).map(|n| {
            let mut trace = [0; 16];
            trace.copy_from_slice(&<sha2::Sha256 as sha2::Digest>::digest(n.to_be_bytes())[..16]);
            trace
        });
        let sampled = traces.filter(|trace| sampler.samples(trace, None)).count();
        assert!((2300..2700).contains(&sampled), "{sampled}");
        assert!(sampler.samples(&[0xff; 16], Some(true)));
    }
}
