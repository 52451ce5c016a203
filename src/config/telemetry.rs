//! What is particular to `[Telemetry]`.

use super::{
    declaration::Setting,
    kinds::{Checked, Flag, Kind, Text},
    reader::{File, Reader, Value},
    rules::{Optional, WithDefault},
};
use crate::telemetry::settings::{Sampler, Signal, is_address};

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

    use crate::{
        config::Config,
        telemetry::settings::{Protocol, Signal},
    };

    fn with(telemetry: &str) -> Result<crate::telemetry::Settings, String> {
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
