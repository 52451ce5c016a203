//! What a pool's tasks are for jobs: each is launched as a job's task would be.

use states::{About, Fit, Header, JobId, PoolRole, Timestamp, WarmOrigin};

use super::{Flags, Plan, PlanError, choose, grant_by};
use crate::{
    config::{Config, Warm},
    control::POOL_TAG,
    grant::Requests,
    runner::{Identity, StageEnvironment, WishedContainer, Wishes},
    tags,
};

/// Returns the header of a warm task of this pool. Its launch lacks the public key.
pub(crate) fn header(
    config: &Config,
    pool: &Warm,
    id: JobId,
    now: Timestamp,
) -> Result<Header, PlanError> {
    let flags = Flags {
        task_definition: pool.task_definition.clone(),
        platform_version: pool.platform_version.clone(),
    };
    let image = |name: &String| WishedContainer { name: name.clone(), ..Default::default() };
    let wishes = Wishes { image: pool.image.as_ref().map(image), ..Wishes::default() };
    // As a job's variables would say it.
    let requests = Requests {
        cpu: pool.cpu.map(|units| units.to_string()),
        memory: pool.memory.map(|mebibytes| mebibytes.to_string()),
        ..Requests::default()
    };
    let plan = Plan {
        chosen: choose(config, &flags, &StageEnvironment::default())?,
        granted: grant_by(config, Some(&wishes), &requests)?,
    };
    let identity = Identity { id, about: About::default(), trace_id: None };
    let mut header = super::header(config, &identity, plan, now);
    let name = config.pool_name(pool);
    header.spec.tags.push((POOL_TAG.to_owned(), tags::value(&name)));
    header.pool = Some(PoolRole::Warm(WarmOrigin { pool: name, max_age: pool.max_age }));
    Ok(header)
}

/// Returns what a task of this pool is for a job, by today's configuration.
///
/// # Errors
/// When the configuration does not grant what the pool asks for.
pub fn fit(config: &Config, pool: &Warm) -> Result<Fit, PlanError> {
    let header = header(config, pool, JobId::warm(0), Timestamp::from_millis(0))?;
    Ok(Fit::of(&header))
}

/// Returns the name of the pool whose tasks fit the job of this header.
pub(crate) fn matching(config: &Config, header: &Header) -> Option<String> {
    let wanted = Fit::of(header);
    let matches = |pool: &&Warm| fit(config, pool).is_ok_and(|fit| fit == wanted);
    config.warm.iter().find(matches).map(|pool| config.pool_name(pool))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::runner::SentEnvironment;

    const POOLS: &str = r#"
        [Images]
        Allowed = ["node:*", "registry.example.com/*"]
        Mirror = "mirror.example.com/hub"
        [Sizes]
        MaxCpu = 4096
        MaxMemory = 16384
        [[Warm]]
        Count = 1
        [[Warm]]
        Name = "node"
        Image = "node:22"
        CPU = 1024
        Memory = 2048
        Count = 1
        [[Warm]]
        Name = "other"
        TaskDefinition = "other:7"
        PlatformVersion = "1.4.0"
        Count = 1
    "#;

    fn config(more: &str) -> Config {
        let text = format!(
            "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 'ci-job'\n[TaskMetadata]\nDirectory = '/m'\n{more}"
        );
        Config::parse(&text, Path::new("fargate.toml")).unwrap().0
    }

    /// The header of a job with these variables and this image.
    fn job(config: &Config, image: Option<&str>, variables: &[(&str, &str)]) -> Header {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        let sent = serde_json::json!({ "variables": variables, "response": null });
        let sent: SentEnvironment = serde_json::from_value(sent).unwrap();
        let environment = StageEnvironment::from(sent);
        let variable = |name: &str| environment.job_variable(name);
        let image =
            image.map(|name| WishedContainer { name: name.to_owned(), ..Default::default() });
        let wishes = Wishes { image, ..Wishes::default() };
        let requests = Requests::from_variables(variable);
        let plan = Plan {
            chosen: choose(config, &Flags::default(), &environment).unwrap(),
            granted: grant_by(config, Some(&wishes), &requests).unwrap(),
        };
        let about = About { job_id: "9".to_owned(), ..About::default() };
        let identity = Identity { id: JobId::new("tok-9").unwrap(), about, trace_id: None };
        super::super::header(config, &identity, plan, Timestamp::from_millis(9))
    }

    #[test]
    fn a_pools_tasks_are_what_jobs_that_ask_for_the_same_launch() {
        let config = config(POOLS);
        let sized = [("FARGATE_CPU", "1024"), ("FARGATE_MEMORY", "2048")];
        let other = [("FARGATE_TASK_DEFINITION", "other:7"), ("FARGATE_PLATFORM_VERSION", "1.4.0")];
        for (image, variables, pool) in [
            (None, &[][..], Some("ci-job")),
            (None, &[("FARGATE_TASK_DEFINITION", "ci-job")], Some("ci-job")),
            (Some("node:22"), &sized, Some("node")),
            (None, &other, Some("other")),
            (Some("node:22"), &[], None),
            (Some("node:20"), &sized, None),
            (Some("registry.example.com/node:22"), &sized, None),
            (None, &sized, None),
            (None, &other[..1], None),
        ] {
            let header = job(&config, image, variables);
            let matching = matching(&config, &header);
            assert_eq!(matching.as_deref(), pool, "{image:?} {variables:?}");
        }
        // A change of the file that concerns launches makes other tasks of them.
        let changed = self::config(&POOLS.replace("mirror.example.com", "other.example.com"));
        let header = job(&config, Some("node:22"), &sized);
        assert_eq!(matching(&changed, &header), None);
    }

    #[test]
    fn a_pool_that_is_not_granted_is_an_error() {
        let mut config = config(POOLS);
        config.warm[1].image = Some("mysql:9".to_owned());
        let error = fit(&config, &config.warm[1]).unwrap_err().to_string();
        assert!(error.contains("does not allow the image \"mysql:9\""), "{error}");
    }
}
