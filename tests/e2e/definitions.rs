//! Derived task definitions: registered once, used by all, retired when no job uses them.

use std::{
    fs::{self, File, FileTimes},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use fargate_driver::control::{DefinitionCache, EcsControl};
use serde_json::{Value, json};
use states::{
    Additions, Capacity, ClientToken, ContainerImage, ControlError, LaunchSpec, ServiceContainer,
    StartedBy, TaskControl as _, TaskReport, TaskSize, task_tags::MANAGER_TAG,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{cluster::Cluster, runner::Job};

/// Runs tests on the local cluster, and on moto, which checks definitions as ECS does.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn local() {
                super::$name(&crate::cluster::Cluster::local());
            }

            #[test]
            #[ignore = "needs moto: scripts/test installs it and runs this"]
            fn moto() {
                super::$name(&crate::cluster::Cluster::moto());
            }
        }
    )*};
}

on_both!(
    fifty_jobs_with_five_images_make_five_registrations,
    a_definition_is_found_by_another_manager,
    an_unused_definition_is_retired,
    a_derived_definition_has_the_bases_tags_if_they_are_propagated,
);

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Task control of the manager with this metadata directory.
pub async fn control(cluster: &Cluster, metadata: &Path) -> EcsControl {
    let environment = cluster.environment();
    let variable = |name: &str| environment.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let key = Credentials::from_keys(
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
        None,
    );
    let config = aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(cluster.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(key)
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .load()
        .await;
    EcsControl::with_config(config).with_definitions(DefinitionCache::in_metadata(metadata))
}

/// A launch beside a service with this image: the base's container needs nothing for it.
fn spec(cluster: &Cluster, image: &str) -> LaunchSpec {
    let (name, definition, subnet) = match cluster {
        Cluster::Local(_) => ("local".to_owned(), "local-job:1", "subnet-local".to_owned()),
        Cluster::Moto(moto) => (moto.cluster.clone(), "job:1", moto.subnet.clone()),
    };
    let image = ContainerImage { name: image.to_owned(), credentials: None, entry_point: None };
    let service = ServiceContainer {
        name: "service-0".to_owned(),
        image,
        command: None,
        aliases: Vec::new(),
        port: None,
    };
    LaunchSpec {
        cluster: name,
        task_definition: definition.to_owned(),
        platform_version: None,
        subnets: vec![subnet],
        security_groups: vec!["sg-0a1b2c3d".to_owned()],
        assign_public_ip: false,
        capacity: Capacity::ClusterDefault,
        container: "ci-coordinator".to_owned(),
        environment: Vec::new(),
        started_by: StartedBy::new("gitlab-1").unwrap(),
        tags: vec![(MANAGER_TAG.to_owned(), "m".to_owned())],
        enable_execute_command: false,
        propagate_tags: false,
        enable_ecs_managed_tags: false,
        additions: Some(Box::new(Additions { services: vec![service], ..Additions::default() })),
        size: TaskSize::default(),
        task_role: None,
        service_environment: vec![(
            "service-0".to_owned(),
            vec![("POSTGRES_DB".to_owned(), "app".to_owned())],
        )],
    }
}

/// Launches a task, again and again while ECS or other jobs are too busy, as the machine does.
async fn launch(
    control: &EcsControl,
    token: &str,
    spec: &LaunchSpec,
) -> Result<TaskReport, ControlError> {
    let token = ClientToken::new(token).unwrap();
    for _ in 0..100 {
        match control.launch(&token, spec).await {
            Err(error) if error.kind.is_transient() => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            settled => return settled,
        }
    }
    control.launch(&token, spec).await
}

/// The revisions of the derived definitions.
fn derived(cluster: &Cluster, status: &str) -> Vec<String> {
    let listed = cluster.ecs("ListTaskDefinitions", &json!({ "status": status }));
    let arns = listed["taskDefinitionArns"].as_array().unwrap().iter();
    arns.map(|arn| arn.as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .filter(|name| name.contains("--"))
        .collect()
}

/// An image that no other test names: moto is one for all tests.
fn unique(name: &str) -> String {
    format!("{name}:{:08x}", rand::random::<u32>())
}

/// The family of the definition that the manager registered last.
fn known(metadata: &Path) -> Vec<String> {
    let known = DefinitionCache::in_metadata(metadata).known().unwrap();
    let mut families: Vec<String> = known.into_iter().map(|known| known.family).collect();
    families.sort_unstable();
    families
}

fn a_derived_definition_has_the_bases_tags_if_they_are_propagated(cluster: &Cluster) {
    let family = format!("tagged-{:08x}", rand::random::<u32>());
    cluster.ecs(
        "RegisterTaskDefinition",
        &json!({
            "family": family, "networkMode": "awsvpc", "cpu": "256", "memory": "512",
            "requiresCompatibilities": ["FARGATE"],
            "tags": [{ "key": "cost-center", "value": "42" }],
            "containerDefinitions": [{ "name": "ci-coordinator", "image": "local" }],
        }),
    );
    let place = tempfile::tempdir().unwrap();
    let tags = runtime().block_on(async {
        let control = control(cluster, place.path()).await;
        let base = LaunchSpec {
            task_definition: format!("{family}:1"),
            propagate_tags: true,
            ..spec(cluster, &unique("image"))
        };
        launch(&control, "token-tagged", &base).await.unwrap();
        let derived = known(place.path()).remove(0);
        let described = cluster.ecs(
            "DescribeTaskDefinition",
            &json!({ "taskDefinition": derived, "include": ["TAGS"] }),
        );
        described["tags"].clone()
    });
    let value = |key: &str| {
        let tags = tags.as_array().unwrap();
        tags.iter().find(|tag| tag["key"] == key).map(|tag| tag["value"].clone())
    };
    assert_eq!(value("cost-center"), Some(json!("42")), "{tags}");
    assert_eq!(value(MANAGER_TAG), Some(json!("m")), "{tags}");
}

fn fifty_jobs_with_five_images_make_five_registrations(cluster: &Cluster) {
    let place = tempfile::tempdir().unwrap();
    let images: Vec<String> = (0..5).map(|n| unique(&format!("image-{n}"))).collect();
    runtime().block_on(async {
        let control = Arc::new(control(cluster, place.path()).await);
        let mut jobs = JoinSet::new();
        for job in 0..50 {
            let spec = spec(cluster, &images[job % images.len()]);
            let control = Arc::clone(&control);
            jobs.spawn(async move { launch(&control, &format!("t-{job}"), &spec).await });
        }
        while let Some(launched) = jobs.join_next().await {
            launched.unwrap().unwrap();
        }
    });
    let families = known(place.path());
    assert_eq!(families.len(), 5, "{families:?}");
    let active = derived(cluster, "ACTIVE");
    for family in &families {
        let revisions: Vec<_> = active.iter().filter(|name| name.starts_with(family)).collect();
        assert_eq!(revisions, [&format!("{family}:1")]);
    }
    if let Cluster::Local(local) = cluster {
        assert_eq!(local.calls("RegisterTaskDefinition"), 5);
    }
}

fn a_definition_is_found_by_another_manager(cluster: &Cluster) {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let spec = spec(cluster, &unique("shared"));
    runtime().block_on(async {
        for (number, place) in places.iter().enumerate() {
            let control = control(cluster, place.path()).await;
            launch(&control, &format!("m-{number}"), &spec).await.unwrap();
        }
    });
    let families = known(places[0].path());
    assert_eq!(families, known(places[1].path()));
    let revisions = derived(cluster, "ACTIVE");
    let of_it = revisions.iter().filter(|name| name.starts_with(&families[0]));
    assert_eq!(of_it.count(), 1);
    let described =
        cluster.ecs("DescribeTaskDefinition", &json!({ "taskDefinition": families[0] }));
    let containers = described["taskDefinition"]["containerDefinitions"].as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ci-coordinator", "service-0"]);
    assert!(!described.to_string().contains("POSTGRES_DB"), "variables are the launch's");
}

fn an_unused_definition_is_retired(cluster: &Cluster) {
    let job = Job::with(cluster, "[Images]\nAllowed = [\"*\"]\n");
    fs::create_dir_all(&job.metadata).unwrap();
    let images = ["old", "new"].map(unique);
    runtime().block_on(async {
        let control = control(cluster, &job.metadata).await;
        for image in &images {
            launch(&control, image, &spec(cluster, image)).await.unwrap();
        }
    });
    let cache = DefinitionCache::in_metadata(&job.metadata);
    let old = cache.known().unwrap().remove(0).family;
    let long_ago = SystemTime::now() - Duration::from_secs(31 * 24 * 60 * 60);
    let file = File::options().write(true).open(cache.directory().join(&old)).unwrap();
    file.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    let shown = job.reap(&["--dry-run"]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        said.contains(&format!(
            "task definition {old}:1: no job has used it for 30days; it would be deregistered"
        )),
        "{shown:#?}"
    );
    assert_eq!(known(&job.metadata).len(), 2, "a dry run changes nothing");
    let reaped = job.reap(&[]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned();
    assert!(said.contains("task definitions retired: 1"), "{said}");
    assert_eq!(known(&job.metadata).len(), 1);
    assert!(!derived(cluster, "ACTIVE").contains(&format!("{old}:1")));
}

/// ECS refuses the definition that the manager remembers, so the driver registers it again.
#[test]
fn a_definition_that_was_retired_meanwhile_is_registered_again() {
    let cluster = Cluster::local();
    let place = tempfile::tempdir().unwrap();
    let spec = spec(&cluster, "image");
    runtime().block_on(async {
        let control = control(&cluster, place.path()).await;
        launch(&control, "first", &spec).await.unwrap();
        let arn = DefinitionCache::in_metadata(place.path()).known().unwrap().remove(0).arn;
        let gone = cluster.ecs("DeregisterTaskDefinition", &json!({ "taskDefinition": arn }));
        assert_eq!(gone["taskDefinition"]["status"], "INACTIVE", "{gone}");
        launch(&control, "second", &spec).await.unwrap();
        let again = DefinitionCache::in_metadata(place.path()).known().unwrap().remove(0).arn;
        assert!(again.ends_with(":2"), "{again}");
    });
}

/// ECS shows the overrides of a launch in the task.
#[test]
fn sizes_roles_and_variables_are_overridden_at_the_launch() {
    let cluster = Cluster::local();
    let place = tempfile::tempdir().unwrap();
    let spec = LaunchSpec {
        size: TaskSize { cpu: Some(1024), memory: Some(4096), ephemeral_storage: Some(40) },
        task_role: Some("arn:aws:iam::000000000000:role/ci".to_owned()),
        ..spec(&cluster, "image")
    };
    let task = runtime().block_on(async {
        let control = control(&cluster, place.path()).await;
        launch(&control, "sized", &spec).await.unwrap().task
    });
    let mut described = Value::Null;
    crate::eventually("the task is described", || {
        described =
            cluster.ecs("DescribeTasks", &json!({ "cluster": "local", "tasks": [task.as_str()] }));
        described["failures"].as_array().is_some_and(Vec::is_empty)
    });
    let overrides: &Value = &described["tasks"][0]["overrides"];
    assert_eq!(
        (&overrides["cpu"], &overrides["memory"], &overrides["ephemeralStorage"]["sizeInGiB"]),
        (&json!("1024"), &json!("4096"), &json!(40)),
        "{described}"
    );
    assert_eq!(overrides["taskRoleArn"], "arn:aws:iam::000000000000:role/ci");
    let service = &overrides["containerOverrides"][1];
    assert_eq!(service["name"], "service-0", "{overrides}");
    assert_eq!(service["environment"][0]["value"], "app");
}
