//! Derived task definitions that no job has used for long.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use states::ControlError;

use super::{
    Reaper,
    report::{Summary, report},
    retry,
};
use crate::{
    config::Config,
    control::{DefinitionCache, EcsControl},
    definition::family_prefix,
    ownership::manager,
};

impl Reaper {
    /// Retires the derived definitions that this manager has not used for long, and those that it
    /// registered and has forgotten. Another manager that needs one registers it again.
    pub(super) async fn retire_definitions(
        &self,
        control: &EcsControl,
        config: &Config,
        summary: &mut Summary,
    ) {
        let cache = DefinitionCache::in_metadata(&config.metadata.directory);
        let known = match cache.known() {
            Ok(known) => known,
            Err(e) => {
                let directory = cache.directory().display();
                return summary.record_failure(&format!("the files in {directory}"), &e);
            }
        };
        let keep = config.images.keep_definitions;
        let unused = |used: SystemTime| used.elapsed().unwrap_or_default() > keep;
        for definition in known.iter().filter(|definition| unused(definition.used)) {
            let retired = self.retire(control, &definition.arn, keep, summary).await;
            if retired {
                cache.forget(&definition.family);
            }
        }
        if config.images.allowed.is_none() {
            return;
        }
        let known: HashSet<&str> = known.iter().map(|known| known.family.as_str()).collect();
        let prefix = family_prefix(&config.fargate.task_definition);
        let families = match retry(|| control.families(&prefix)).await {
            Ok(families) => families,
            Err(e) => return failed(summary, &format!("the families {prefix}*"), &e),
        };
        for family in families.iter().filter(|family| !known.contains(family.as_str())) {
            match retry(|| control.derived(family)).await {
                Ok(Some(derived))
                    if derived.manager == manager(config) && unused(derived.registered) =>
                {
                    self.retire(control, &derived.arn, keep, summary).await;
                }
                Ok(_) => {}
                Err(e) => failed(summary, &format!("the task definition {family}"), &e),
            }
        }
    }

    /// Retires one definition. Returns whether it is gone.
    async fn retire(
        &self,
        control: &EcsControl,
        arn: &str,
        keep: Duration,
        summary: &mut Summary,
    ) -> bool {
        let name = arn.rsplit('/').next().unwrap_or(arn);
        let keep = humantime::format_duration(keep);
        let why = format!("task definition {name}: no job has used it for {keep}");
        if self.dry_run {
            report(format_args!("{why}; it would be deregistered"));
            summary.definitions += 1;
            return false;
        }
        match retry(|| control.retire(arn)).await {
            Ok(()) => {
                report(format_args!("{why}; it was deregistered"));
                summary.definitions += 1;
                true
            }
            Err(e) => {
                failed(summary, &format!("the task definition {name}"), &e);
                false
            }
        }
    }
}

fn failed(summary: &mut Summary, what: &str, error: &ControlError) {
    summary.record_failure(what, &diagnosis::explain_control(error));
}
