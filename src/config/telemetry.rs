//! Parses `[Telemetry]`.

use toml::de::DeValue;

use super::{ConfigError, reader::Reader};
use crate::telemetry::settings::{FLUSH_TIMEOUT, Protocol, Sampler, Settings, Signal, is_address};

const TABLE: &str = "Telemetry";

impl Reader<'_> {
    /// Reads `[Telemetry]`, without the environment's overrides.
    pub(super) fn telemetry(&self) -> Result<Settings, ConfigError> {
        let defaults = Settings::default();
        let endpoint = self.address("Endpoint")?;
        if let (false, true, Some(value)) =
            (cfg!(feature = "telemetry"), endpoint.is_some(), self.find(TABLE, "Endpoint"))
        {
            return Err(self.file.wrong(
                &value.span(),
                "this fargate was built without telemetry: remove [Telemetry], or build it with the feature `telemetry`".to_owned(),
            ));
        }
        let mut signals = Vec::new();
        for (key, signal, default) in [
            ("Traces", Signal::Traces, true),
            ("Metrics", Signal::Metrics, true),
            ("Logs", Signal::Logs, false),
        ] {
            if self.find(TABLE, key).map_or(Ok(default), |_| self.flag(TABLE, key))? {
                signals.push(signal);
            }
        }
        Ok(Settings {
            endpoint,
            protocol: self.protocol()?,
            headers: self.named("Headers")?,
            certificate: self.text(TABLE, "Certificate")?.map(Into::into),
            service: self.text(TABLE, "ServiceName")?.unwrap_or(defaults.service),
            resource: self.named("ResourceAttributes")?,
            sampler: self.sampler()?,
            trust_job_traceparent: self.flag(TABLE, "TrustJobTraceparent")?,
            flush_timeout: self.span(TABLE, "FlushTimeout", FLUSH_TIMEOUT)?,
            signals,
            propagate: self.flag(TABLE, "PropagateToJob")?,
            job_endpoint: self.address("JobEndpoint")?,
            endpoints: Vec::new(),
        })
    }

    fn address(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(url) = self.text(TABLE, key)? else { return Ok(None) };
        match (is_address(&url), self.find(TABLE, key)) {
            (false, Some(value)) => {
                let message = format!(
                    "{key} is {url:?}, expected an address such as \"http://127.0.0.1:4318\""
                );
                Err(self.file.wrong(&value.span(), message))
            }
            _ => Ok(Some(url)),
        }
    }

    fn protocol(&self) -> Result<Protocol, ConfigError> {
        let Some(value) = self.find(TABLE, "Protocol") else { return Ok(Protocol::default()) };
        let name = self.as_text(value, "Protocol")?;
        Protocol::by_name(&name).ok_or_else(|| {
            self.file.wrong(
                &value.span(),
                format!("Protocol is {name:?}, expected \"http/protobuf\" or \"grpc\""),
            )
        })
    }

    fn sampler(&self) -> Result<Sampler, ConfigError> {
        let Some(value) = self.find(TABLE, "Sampler") else { return Ok(Sampler::default()) };
        let name = self.as_text(value, "Sampler")?;
        let argument = self.text(TABLE, "SamplerArgument")?;
        Sampler::by_name(&name, argument.as_deref()).ok_or_else(|| {
            let message = format!(
                "Sampler is {name:?}, expected \"always_on\", \"always_off\" or \"traceidratio\" (with SamplerArgument from \"0\" to \"1\"), or one of these after \"parentbased_\""
            );
            self.file.wrong(&value.span(), message)
        })
    }

    /// Reads a table of texts.
    fn named(&self, key: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let Some(value) = self.find(TABLE, key) else { return Ok(Vec::new()) };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.mistyped(value, key, "a table such as { name = \"value\" }"));
        };
        table
            .iter()
            .map(|(name, value)| {
                Ok((name.get_ref().to_string(), self.as_text(value, name.get_ref())?))
            })
            .collect()
    }
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
