//! The metrics' text.

use std::collections::BTreeSet;

/// Checks the text's form, and that each metric of [`NAMES`] is there.
pub fn check(text: &str) {
    let mut described = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(about) = line.strip_prefix("# TYPE ") {
            let (name, kind) = about.split_once(' ').unwrap();
            assert!(matches!(kind, "gauge" | "counter"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(described.insert(name.to_owned()), "{name} is described twice");
        } else if line.starts_with("# HELP ") {
            assert!(line.split(' ').count() > 4, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|e| panic!("{e}: {line}"));
            let name = series.split('{').next().unwrap();
            assert!(described.contains(name), "{name} is not described: {text}");
            assert!(seen.insert(series.to_owned()), "{series} is there twice");
        }
    }
    for name in NAMES {
        assert!(described.contains(*name), "{name} is missing: {text}");
    }
    assert_eq!(described.len(), NAMES.len(), "{described:?}");
    for line in [
        "fargate_aws_calls_total{rpc_method=\"ECS/DescribeTasks\",error_type=\"\"} 97",
        "fargate_aws_calls_total{rpc_method=\"ECS/DescribeTasks\",error_type=\"ThrottlingException\"} 3",
        "fargate_warm_tasks{fargate_pool=\"ci-job\",fargate_warm_state=\"ready\"} 3",
        "fargate_warm_claims_total{fargate_pool=\"ci-job\",fargate_warm_result=\"miss\"} 2",
        "fargate_healthy 1",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line}: {text}");
    }
    let jobs: u64 = text
        .lines()
        .filter(|line| line.starts_with("fargate_jobs_open{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(jobs, 30, "{text}");
}

/// The metrics of a view with calls and pools, but no job that ended while it was looked at.
const NAMES: &[&str] = &[
    "fargate_aws_calls_total",
    "fargate_build_info",
    "fargate_healthy",
    "fargate_jobs_archived",
    "fargate_jobs_open",
    "fargate_jobs_open_age_seconds",
    "fargate_jobs_stuck",
    "fargate_jobs_stuck_by_cause",
    "fargate_jobs_unreadable",
    "fargate_warm_claims_total",
    "fargate_warm_idle_seconds",
    "fargate_warm_tasks",
];

#[test]
fn the_page_s_documentation_names_every_metric() {
    let page = include_str!("../../docs/service.md");
    for name in NAMES.iter().chain(&["fargate_jobs_total"]) {
        assert!(page.contains(&format!("`{name}`")), "{name} is not documented");
    }
}
