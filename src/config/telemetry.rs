//! `[Telemetry]` in `fargate.toml`, and the standard `OTEL_*` variables, which override it
//! (OpenTelemetry, "Environment Variable Specification", "OTLP Exporter Configuration").

use std::{borrow::Cow, net::IpAddr, time::Duration};

use percent_encoding::percent_decode_str;

use super::{
    declaration::Setting,
    kinds::{Checked, Flag, Kind, Text},
    reader::{File, Reader, Value},
    rules::{Optional, WithDefault},
    settings::Telemetry,
};

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
pub(super) const PROTOCOLS: &[(&str, Protocol)] =
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
}

impl Telemetry {
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

    /// Returns what the administrator probably does not mean: headers, which hold credentials, that
    /// would be sent unencrypted to another host.
    #[must_use]
    pub fn caution(&self) -> Option<String> {
        let exported = self.signals.iter().filter_map(|signal| self.address(*signal));
        let address = exported.into_iter().find(|url| is_remote_and_unencrypted(url))?;
        (!self.headers.is_empty()).then(|| {
            format!(
                "the telemetry headers are sent unencrypted to {}: every host on the way can read them. Use an https:// endpoint, or a collector on this machine.",
                origin(&address)
            )
        })
    }

    /// Applies the overrides of this process's environment. Also returns a message for each variable
    /// that cannot be used.
    #[must_use]
    pub fn effective(&self) -> (Self, Vec<String>) {
        self.clone().overridden(|name| std::env::var(name).ok())
    }

    /// Applies the environment's overrides. Also returns a message for each variable that cannot be
    /// used.
    #[must_use]
    pub fn overridden(mut self, variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut complaints = Vec::new();
        // `apply` returns `None` if the value cannot be used.
        let mut set = |name: &str, expected: &str, apply: &mut dyn FnMut(String) -> Option<()>| {
            if variable(name).is_some_and(|value| apply(value).is_none()) {
                complaints
                    .push(format!("{name} cannot be used and is ignored: expected {expected}"));
            }
        };
        set("OTEL_EXPORTER_OTLP_ENDPOINT", ADDRESS, &mut |url| {
            assign(&mut self.endpoint, is_address(&url).then_some(Some(url)))
        });
        set("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf or grpc", &mut |name| {
            let known = PROTOCOLS.iter().find(|(known, _)| *known == name);
            assign(&mut self.protocol, known.map(|known| known.1))
        });
        set("OTEL_EXPORTER_OTLP_HEADERS", PAIRS, &mut |list| merge(&mut self.headers, &list));
        set("OTEL_RESOURCE_ATTRIBUTES", PAIRS, &mut |list| merge(&mut self.resource, &list));
        if let Some(at) = self.resource.iter().position(|(name, _)| name == "service.name") {
            self.service = self.resource.remove(at).1;
        }
        set("OTEL_SERVICE_NAME", "", &mut |name| assign(&mut self.service, Some(name)));
        set("OTEL_EXPORTER_OTLP_CERTIFICATE", "", &mut |path| {
            assign(&mut self.certificate, Some(Some(path.into())))
        });
        set(
            "OTEL_TRACES_SAMPLER",
            "always_on, always_off, traceidratio or these after parentbased_",
            &mut |name| {
                let argument = variable("OTEL_TRACES_SAMPLER_ARG");
                assign(&mut self.sampler, Sampler::by_name(&name, argument.as_deref()))
            },
        );
        // It can only shorten the limit: its default, 10 s, is for processes that live longer.
        set("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds", &mut |text| {
            let limit = text.parse().ok().map(Duration::from_millis);
            let shorter = limit.map(|limit| limit.min(self.flush_timeout));
            assign(&mut self.flush_timeout, shorter)
        });
        for signal in Signal::ALL {
            let upper = signal.name().to_uppercase();
            set(&format!("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT"), ADDRESS, &mut |url| {
                let url = is_address(&url).then_some(url)?;
                self.endpoints.retain(|(of, _)| *of != signal);
                self.endpoints.push((signal, url));
                Some(())
            });
            set(&format!("OTEL_{upper}_EXPORTER"), "otlp or none", &mut |name| {
                self.signals.retain(|of| *of != signal || name != "none");
                if name == "otlp" && !self.signals.contains(&signal) {
                    self.signals.push(signal);
                }
                ["otlp", "none"].contains(&name.as_str()).then_some(())
            });
        }
        set("OTEL_SDK_DISABLED", "", &mut |value| {
            self.signals.retain(|_| !value.eq_ignore_ascii_case("true"));
            Some(())
        });
        (self, complaints)
    }
}

/// Sets a setting. `None` if there is no value that can be used.
fn assign<T>(setting: &mut T, value: Option<T>) -> Option<()> {
    *setting = value?;
    Some(())
}

const ADDRESS: &str = "an address such as http://127.0.0.1:4318";
const PAIRS: &str = "name=value,name=value";

/// Whether this can be a collector's address, in the file and the environment alike.
fn is_address(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && url.parse::<http::Uri>().is_ok()
}

fn is_remote_and_unencrypted(url: &str) -> bool {
    let Some(uri) = url.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"))
    else {
        return false;
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
    !is_loopback
}

/// Returns scheme, host and port of an address, for messages. User, password, path and query may
/// each hold a secret.
#[must_use]
pub fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{}", authority.rsplit('@').next().unwrap_or_default())
}

/// Adds `name=value,…`, with percent-encoded values (W3C Baggage), to `all`, replacing equal names.
fn merge(all: &mut Vec<(String, String)>, list: &str) -> Option<()> {
    let pairs = list.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pairs: Option<Vec<(String, String)>> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim().to_owned(), decoded(value.trim())?))
        })
        .collect();
    for (name, value) in pairs? {
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    }
    Some(())
}

/// Decodes percent-encoded UTF-8. `None` if a `%` is not before two hexadecimal digits.
fn decoded(text: &str) -> Option<String> {
    let is_encoded =
        |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    let is_valid = text.split('%').skip(1).all(is_encoded);
    is_valid.then(|| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)).flatten()
}

/// The address of a collector.
pub(super) struct Address;

impl Kind for Address {
    type Value = String;
    const NAME: &'static str = Text::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<String> {
        match Text.check(file, key, value)? {
            Some(url) if !is_address(&url) => {
                let message = format!(
                    "{key} is {url:?}, expected an address such as \"http://127.0.0.1:4318\""
                );
                Err(file.wrong(&value.span(), message))
            }
            url => Ok(url),
        }
    }
}

/// Reads `Endpoint`, which switches telemetry on.
pub(super) fn endpoint(
    reader: &mut Reader<'_>,
    setting: Setting<Optional<Address>>,
) -> Option<String> {
    let endpoint = setting.read(reader);
    if let (false, true, Some(value)) =
        (cfg!(feature = "telemetry"), endpoint.is_some(), setting.find(reader))
    {
        reader.mistakes.push(reader.file.wrong(
            &value.span(),
            "this fargate was built without telemetry: remove [Telemetry], or build it with the feature `telemetry`".to_owned(),
        ));
    }
    endpoint
}

/// Reads which jobs are traced.
pub(super) fn sampler(
    reader: &mut Reader<'_>,
    sampler: Setting<WithDefault<Text>>,
    argument: Setting<Optional<Text>>,
) -> Sampler {
    let (name, argument) = (sampler.read(reader), argument.read(reader));
    Sampler::by_name(&name, argument.as_deref()).unwrap_or_else(|| {
        let span = sampler.find(reader).map_or(0..0, |value| value.span());
        let message = format!(
            "Sampler is {name:?}, expected \"always_on\", \"always_off\" or \"traceidratio\" (with SamplerArgument from \"0\" to \"1\"), or one of these after \"parentbased_\""
        );
        reader.mistakes.push(reader.file.wrong(&span, message));
        Sampler { ratio: 1.0, parent_based: true }
    })
}

/// Reads which signals are exported.
pub(super) fn signals(
    reader: &mut Reader<'_>,
    traces: Setting<WithDefault<Flag>>,
    metrics: Setting<WithDefault<Flag>>,
    logs: Setting<WithDefault<Flag>>,
) -> Vec<Signal> {
    let mut signals = Vec::new();
    for (setting, signal) in
        [(traces, Signal::Traces), (metrics, Signal::Metrics), (logs, Signal::Logs)]
    {
        if setting.read(reader) {
            signals.push(signal);
        }
    }
    signals
}

/// Returns the addresses of single signals, which variables alone can set.
pub(super) fn no_endpoints(_: &mut Reader<'_>) -> Vec<(Signal, String)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn with(telemetry: &str) -> Result<Telemetry, String> {
        let text = format!(
            "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'\n[Telemetry]\n{telemetry}\n"
        );
        Config::parse(&text, Path::new("f"))
            .map(|(config, _)| config.telemetry)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn off_unless_an_endpoint_is_named() {
        assert!(!with("").unwrap().is_on());
        assert!(!with("PropagateToJob = true").unwrap().is_on());
    }

    #[cfg(feature = "telemetry")]
    #[test]
    fn every_setting_is_read() {
        let settings = with(
            "Endpoint = 'http://c:4317'\nProtocol = 'grpc'\nHeaders = { 'api-key' = 'x' }\nLogs = true\nMetrics = false\nFlushTimeout = '50ms'",
        )
        .unwrap();
        assert_eq!((settings.protocol, settings.flush_timeout.as_millis()), (Protocol::Grpc, 50));
        assert_eq!(settings.signals, [Signal::Traces, Signal::Logs]);
        assert_eq!(settings.address(Signal::Traces).unwrap(), "http://c:4317");
    }

    #[test]
    fn errors_have_a_location() {
        for (bad, expected) in [
            ("Endpoint = 'localhost:4317'", "f:8:12: Endpoint"),
            ("Protocol = 'json'", "f:8:12: Protocol"),
            ("Sampler = 'sometimes'", "f:8:11: Sampler"),
            ("Headers = 'a=b'", "f:8:11: Headers"),
        ] {
            let error = with(bad).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
