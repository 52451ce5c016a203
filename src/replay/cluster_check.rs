//! Whether a job belongs to the cluster and the runner manager that the configuration names.
//! Commands that act use its credentials.

use ::replay::{Failure, holder};
use clap::Args;
use states::Snapshot;

use crate::{config::Config, ownership};

/// The arguments of commands that act on a job's task.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// A GitLab job id, or a snapshot's name in the directory
    #[arg(value_name = "JOB")]
    pub(super) job: String,
    /// Also act on a job of another cluster, region or runner manager than the configuration's,
    /// with its credentials
    #[arg(long)]
    any_cluster: bool,
}

impl JobArgs {
    /// Refuses a job of another cluster, region or runner manager than the configuration's.
    ///
    /// A snapshot may come from another manager's disk, or from before a change of the
    /// configuration. The job's task is then in another cluster than the one at hand.
    ///
    /// # Errors
    /// Says what the job belongs to, and what to do.
    pub(super) fn refuse_others(
        &self,
        snapshot: &Snapshot,
        config: &Config,
    ) -> Result<(), Failure> {
        match difference(snapshot, config).filter(|_| !self.any_cluster) {
            None => Ok(()),
            Some(difference) => Err(Failure::Other(format!(
                "job {} is {difference}. Nothing was done. Name the configuration that it was launched with by --config, or act on it with this one by --any-cluster.",
                snapshot.job.header().about.job_id
            ))),
        }
    }
}

/// Returns how the job differs from those of the configuration.
fn difference(snapshot: &Snapshot, config: &Config) -> Option<String> {
    let header = snapshot.job.header();
    let ours = Cluster::parse(&config.fargate.cluster);
    let region = config.fargate.region.as_deref().or(ours.region);
    let task = snapshot.job.task().and_then(states::TaskArn::cluster_arn);
    for theirs in [Some(header.spec.cluster.as_str()), task.as_deref()].into_iter().flatten() {
        let cluster = Cluster::parse(theirs);
        if cluster.name != ours.name || differ(cluster.account, ours.account) {
            return Some(format!(
                "of cluster {theirs}, and the configuration names {}",
                config.fargate.cluster
            ));
        }
        if differ(cluster.region, region) {
            return Some(format!(
                "in {}, and the configuration names {}",
                cluster.region.unwrap_or_default(),
                region.unwrap_or_default()
            ));
        }
    }
    let (theirs, ours) = (holder::manager(snapshot)?, ownership::manager(config));
    (theirs != ours)
        .then(|| format!("of runner manager {theirs}, and the configuration's is {ours}"))
}

/// Whether both are known and differ.
fn differ(one: Option<&str>, other: Option<&str>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

/// A cluster, by its name or its ARN.
#[derive(Debug, PartialEq, Eq)]
struct Cluster<'a> {
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
}

impl<'a> Cluster<'a> {
    fn parse(text: &'a str) -> Self {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts.as_slice() {
            // arn:aws:ecs:<region>:<account>:cluster/<name>
            ["arn", _, "ecs", region, account, rest] => Self {
                region: Some(region),
                account: Some(account),
                name: rest.strip_prefix("cluster/").unwrap_or(rest),
            },
            _ => Self { region: None, account: None, name: text },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;

    fn config(fargate: &str) -> Config {
        let text = format!(
            "[Fargate]\nSubnet = 's'\nTaskDefinition = 't'\n{fargate}\n[TaskMetadata]\nDirectory = '/m'\nManager = 'manager-1'\n"
        );
        Config::parse(&text, Path::new("fargate.toml")).unwrap().0
    }

    /// Reads a job with a task in the cluster `ci` in Frankfurt, and changes its cluster and
    /// manager.
    fn snapshot(cluster: &str, manager: &str) -> Snapshot {
        let path = format!("{}/fixtures/snapshots/v1/executing.ron", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut snapshot = Snapshot::parse(&text).unwrap();
        if let states::AnyJob::Executing(job) = &mut snapshot.job {
            let spec = &mut Arc::make_mut(&mut job.header).spec;
            spec.cluster = cluster.to_owned();
            spec.tags = vec![("fargate-driver:manager".to_owned(), manager.to_owned())];
            job.state.place.task = states::TaskArn::new(
                "arn:aws:ecs:eu-central-1:111122223333:task/ci/0123456789abcdef",
            )
            .unwrap();
        }
        snapshot
    }

    #[test]
    fn only_jobs_of_the_configured_cluster_region_and_manager_are_acted_on() {
        const ARN: &str = "arn:aws:ecs:eu-central-1:111122223333:cluster/ci";
        let own = [
            "Cluster = 'ci'",
            "Cluster = 'ci'\nRegion = 'eu-central-1'",
            &format!("Cluster = '{ARN}'"),
        ]
        .map(config);
        for (cluster, config) in
            ["ci", ARN].iter().flat_map(|cluster| own.iter().map(move |config| (cluster, config)))
        {
            assert_eq!(difference(&snapshot(cluster, "manager-1"), config), None, "{cluster}");
        }
        for (cluster, manager, file, word) in [
            ("prod", "manager-1", "Cluster = 'ci'", "of cluster prod"),
            ("ci", "manager-1", "Cluster = 'prod'", "of cluster ci"),
            ("ci", "manager-1", "Cluster = 'ci'\nRegion = 'us-east-1'", "in eu-central-1"),
            (
                "ci",
                "manager-1",
                "Cluster = 'arn:aws:ecs:eu-central-1:999999999999:cluster/ci'",
                "111122223333",
            ),
            (
                "ci",
                "manager-1",
                "Cluster = 'arn:aws:ecs:us-east-1:111122223333:cluster/ci'",
                "in eu-central-1",
            ),
            ("ci", "manager-2", "Cluster = 'ci'", "of runner manager manager-2"),
        ] {
            let (snapshot, config) = (snapshot(cluster, manager), config(file));
            let args = |any_cluster| JobArgs { job: "1".to_owned(), any_cluster };
            let refusal = args(false).refuse_others(&snapshot, &config).unwrap_err().to_string();
            assert!(refusal.contains(word) && refusal.contains("--any-cluster"), "{refusal}");
            assert!(args(true).refuse_others(&snapshot, &config).is_ok());
        }
    }
}
