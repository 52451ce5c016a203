//! The settings of telemetry, as the file and the environment have them, and the list of metrics,
//! as the documentation and the dashboard have it.

#![allow(clippy::unwrap_used, reason = "tests end by panics")]

use std::{collections::BTreeSet, path::Path};

use fargate_driver::{
    config::{Config, Sampler, Signal, Telemetry, origin},
    telemetry::metrics::METRICS,
};

fn defaults() -> Telemetry {
    let least = "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'";
    Config::parse(least, Path::new("fargate.toml")).unwrap().0.telemetry
}

fn with(variables: &[(&str, &str)]) -> (Telemetry, Vec<String>) {
    defaults()
        .overridden(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
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
fn headers_to_a_remote_host_without_encryption_are_warned_about() {
    let caution = |url: &str, headers: &str| {
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_EXPORTER_OTLP_HEADERS", headers)];
        with(&variables).0.caution()
    };
    for remote in
        ["http://me:pw@collector.example:4318", "http://10.0.0.7", "http://[fd00::1]:4318"]
    {
        let caution = caution(remote, "api-key=s3cret").unwrap();
        assert!(caution.contains(&origin(remote)) && caution.contains("https://"), "{caution}");
        assert!(!caution.contains("s3cret") && !caution.contains("pw"), "{caution}");
    }
    for fine in [
        "https://collector.example",
        "http://localhost:4318",
        "http://127.1.2.3:4318",
        "http://[::1]:4318",
    ] {
        assert_eq!(caution(fine, "api-key=s3cret"), None, "{fine}");
    }
    assert_eq!(caution("http://collector.example", ""), None);
}

/// Follows the OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility".
fn in_prometheus((name, unit, _): &(&str, &str, &str)) -> String {
    let ending = match *unit {
        "s" => "_seconds_bucket",
        "By" => "_bytes_total",
        _ => "_total",
    };
    format!("{}{ending}", name.replace('.', "_"))
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../deploy/grafana-dashboard.json")).unwrap();
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert_eq!(panel["datasource"]["uid"], "${source}", "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            let words = target["expr"]
                .as_str()
                .unwrap()
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            // The driver's own attributes have such names, too, but not in the place of a
            // metric.
            const ATTRIBUTES: [&str; 6] = [
                "fargate_state",
                "fargate_reaped_kind",
                "fargate_pool",
                "fargate_warm_result",
                "fargate_currency",
                "fargate_capacity_provider",
            ];
            shown.extend(
                words.filter(|word| word.starts_with("fargate_") && !ATTRIBUTES.contains(word)),
            );
        }
    }
    let known: Vec<String> = METRICS.iter().map(in_prometheus).collect();
    assert_eq!(shown, known.iter().map(String::as_str).collect());
}

#[test]
fn every_metric_is_documented() {
    let page = include_str!("../docs/telemetry.md");
    for (name, unit, _) in METRICS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}`")));
        assert!(
            row.is_some_and(|row| row.contains(&format!("| {unit} |"))),
            "{name} in {unit}: {row:?}"
        );
    }
}
