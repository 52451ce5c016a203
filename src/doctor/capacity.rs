//! The cluster, where its tasks' capacity comes from, and other managers in it.

use std::collections::BTreeMap;

use aws_sdk_ecs::types::Cluster;
use states::{Capacity, ControlCause, ControlErrorKind as Kind, foreign_text::clipped};

use super::{Check, Examination, Problem, identity};
use crate::{
    control::{DIRECTORY_TAG, MANAGER_TAG},
    ownership, tags,
};

const ON_DEMAND: &str = "FARGATE";
const SPOT: &str = "FARGATE_SPOT";

/// Whether a text has the form of a platform version: `LATEST`, or three numbers.
fn is_platform(version: &str) -> bool {
    let numbers: Vec<_> = version.split('.').map(str::parse::<u16>).collect();
    version == "LATEST" || (numbers.len() == 3 && numbers.iter().all(Result::is_ok))
}

impl Examination<'_> {
    /// Checks the cluster, and its capacity. Returns whether further calls make sense.
    pub(super) async fn check_cluster(&mut self) -> bool {
        const CHECK: Check = Check::Cluster;
        let name = self.config.fargate.cluster.clone();
        let cluster = match self.control.cluster(&name).await {
            Ok(Some(cluster)) => {
                self.is_answered = true;
                cluster
            }
            Ok(None) => return self.no_cluster(name),
            Err(error) if error.kind == Kind::WrongSetting => return self.no_cluster(name),
            Err(error) => {
                self.report.unknown(Check::Capacity, "The cluster is not known.");
                if error.cause == ControlCause::NoAnswer && self.is_unanswered {
                    let said = error.to_string().trim_end_matches('.').to_owned();
                    let facts = [said, identity::destinations(&self.region)];
                    self.report.found(CHECK, Problem::NoAnswer, facts);
                    return false;
                }
                self.report.refused(CHECK, &error);
                return true;
            }
        };
        let status = cluster.status().unwrap_or_default();
        if status != "ACTIVE" {
            let facts = [name, clipped(status)];
            self.report.found(CHECK, Problem::ClusterInactive, facts);
            self.report.unknown(Check::Capacity, "The cluster is not ACTIVE.");
            return true;
        }
        self.report.pass(CHECK, format!("{name} in {} is ACTIVE.", self.region));
        self.check_capacity(&name, &cluster);
        self.cluster = Some(cluster);
        true
    }

    /// Records that there is no cluster. Further calls make sense.
    fn no_cluster(&mut self, name: String) -> bool {
        self.report.found(Check::Cluster, Problem::NoCluster, [name, self.region.clone()]);
        self.report.unknown(Check::Capacity, "There is no cluster.");
        true
    }

    fn check_capacity(&mut self, name: &str, cluster: &Cluster) {
        const CHECK: Check = Check::Capacity;
        let platform = self.config.fargate.platform_version.as_ref();
        if let Some(version) = platform.filter(|version| !is_platform(version)) {
            self.report.found(CHECK, Problem::NotAPlatform, [clipped(version)]);
        }
        // What tasks get if the configuration leaves it to the cluster, and what it names itself.
        let providers: Vec<String> = match &self.config.fargate.capacity {
            Capacity::LaunchType(launch_type) => {
                if self.report.is_clean(CHECK) {
                    let says = format!("LaunchType {launch_type} needs no capacity provider.");
                    self.report.pass(CHECK, says);
                }
                return;
            }
            Capacity::ClusterDefault => {
                let strategy = cluster.default_capacity_provider_strategy().iter();
                strategy.map(|item| clipped(item.capacity_provider())).collect()
            }
            Capacity::Strategy(providers) => {
                providers.iter().map(|provider| provider.name.clone()).collect()
            }
        };
        if providers.is_empty() {
            return self.report.found(CHECK, Problem::NoDefaultStrategy, [name.to_owned()]);
        }
        for provider in &providers {
            if !cluster.capacity_providers().contains(provider) {
                let facts = [provider.clone(), name.to_owned()];
                self.report.found(CHECK, Problem::ProviderNotAttached, facts);
            }
        }
        let has = |name: &str| providers.iter().any(|provider| provider == name);
        let listed = providers.join(", ");
        if !has(ON_DEMAND) && !has(SPOT) {
            return self.report.found(CHECK, Problem::StrategyWithoutFargate, [listed]);
        }
        if !has(ON_DEMAND) {
            self.report.found(CHECK, Problem::SpotOnly, []);
        }
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, format!("Tasks run on {listed}."));
        }
    }

    /// Whether tasks run on demand, and on Spot.
    pub(super) fn markets(&self) -> (bool, bool) {
        let uses = |name: &str| match &self.config.fargate.capacity {
            Capacity::LaunchType(launch_type) => launch_type == name,
            Capacity::Strategy(providers) => providers.iter().any(|p| p.name == name),
            Capacity::ClusterDefault => self.cluster.as_ref().is_some_and(|cluster| {
                let strategy = cluster.default_capacity_provider_strategy();
                strategy.iter().any(|item| item.capacity_provider() == name)
            }),
        };
        (uses(ON_DEMAND), uses(SPOT))
    }

    /// Checks whether another manager in the cluster has this one's name.
    pub(super) async fn check_managers(&mut self) {
        const CHECK: Check = Check::Managers;
        let launched = match self.control.launched(&self.config.fargate.cluster).await {
            Ok(launched) => {
                self.is_answered = true;
                launched
            }
            Err(error) => return self.report.refused(CHECK, &error),
        };
        let manager = ownership::manager(self.config);
        let directory = tags::value(&self.config.metadata.directory.display().to_string());
        let mut others: BTreeMap<&str, usize> = BTreeMap::new();
        let of_name = launched.iter().filter(|task| task.tag(MANAGER_TAG) == manager);
        for task in of_name.filter(|task| task.tag(DIRECTORY_TAG) != directory) {
            *others.entry(task.tag(DIRECTORY_TAG)).or_default() += 1;
        }
        for (other, tasks) in &others {
            let facts = [tasks.to_string(), manager.clone(), clipped(other)];
            self.report.found(CHECK, Problem::SameManager, facts);
        }
        if others.is_empty() {
            self.report
                .pass(CHECK, format!("No other manager in the cluster is called {manager}."));
        }
    }
}
