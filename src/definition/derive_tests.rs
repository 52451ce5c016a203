//! Derived definitions, for all kinds of additions.

use aws_sdk_ecs::types::{
    Compatibility, EphemeralStorage, KeyValuePair, LogDriver, Secret, TaskDefinition,
    TaskDefinitionPlacementConstraint, TaskDefinitionPlacementConstraintType,
};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:deploy";
const OWN: &str = "only-for-the-coordinator";

/// The coordinator, with everything that other containers may not have.
fn coordinator() -> ContainerDefinition {
    let secret = Secret::builder().name("DEPLOY_TOKEN").value_from(SECRET).build().unwrap();
    let logs = LogConfiguration::builder()
        .log_driver(LogDriver::Awslogs)
        .options("awslogs-group", "/ci")
        .build()
        .unwrap();
    ContainerDefinition::builder()
        .name("ci-coordinator")
        .image("registry.example.com/coordinator:3")
        .essential(true)
        .environment(KeyValuePair::builder().name("SETTING").value(OWN).build())
        .secrets(secret)
        .log_configuration(logs)
        .build()
}

fn base(containers: Vec<ContainerDefinition>) -> TaskDefinition {
    TaskDefinition::builder()
        .family("ci")
        .revision(7)
        .network_mode(NetworkMode::Awsvpc)
        .requires_compatibilities(Compatibility::Fargate)
        .cpu("1024")
        .memory("2048")
        .task_role_arn("arn:aws:iam::111122223333:role/task")
        .execution_role_arn("arn:aws:iam::111122223333:role/execution")
        .ephemeral_storage(EphemeralStorage::builder().size_in_gib(40).build())
        .set_container_definitions(Some(containers))
        .build()
}

#[test]
fn a_base_for_instances_keeps_its_compatibility_and_needs_memory_for_the_new_containers() {
    let own = TaskDefinition::builder()
        .network_mode(NetworkMode::Awsvpc)
        .requires_compatibilities(Compatibility::Ec2)
        .container_definitions(coordinator());
    let additions = job(image("node:22"), None);
    let derivation =
        Derivation { base: "ci:7", additions: &additions, coordinator: "ci-coordinator" };
    let refused = derivation.request(&own.clone().build(), &[]).unwrap_err().to_string();
    assert!(refused.contains("no memory of the task as a whole"), "{refused}");
    let request = derivation.request(&own.memory("2048").build(), &[]).unwrap();
    assert_eq!(request.requires_compatibilities(), [Compatibility::Ec2]);
    assert_eq!((request.cpu(), request.memory()), (None, Some("2048")));
}

#[test]
fn a_base_for_instances_keeps_the_constraints_on_their_choice() {
    let constraint = TaskDefinitionPlacementConstraint::builder()
        .r#type(TaskDefinitionPlacementConstraintType::MemberOf)
        .expression("attribute:ecs.instance-type =~ c7g.*")
        .build();
    let additions = job(image("node:22"), None);
    let mut base = base(vec![coordinator()]);
    base.placement_constraints = Some(vec![constraint]);
    assert_eq!(request(&additions, &base).placement_constraints(), base.placement_constraints());
}

fn image(name: &str) -> ContainerImage {
    ContainerImage { name: name.into(), credentials: None, entry_point: None }
}

fn job(image: ContainerImage, user: Option<&str>) -> Additions {
    let shared =
        SharedVolume { run: "/fargate".into(), builds: "/builds".into(), cache: "/cache".into() };
    let job = JobContainer { image, user: user.map(str::to_owned), shared };
    Additions { job: Some(job), ..Additions::default() }
}

fn service(number: usize, image: ContainerImage, command: Option<&[&str]>) -> ServiceContainer {
    ServiceContainer {
        name: format!("service-{number}"),
        image,
        command: command.map(|words| words.iter().map(|word| (*word).to_owned()).collect()),
        aliases: vec!["db".into()],
        port: Some(5432),
    }
}

fn derivation(additions: &Additions) -> Derivation<'_> {
    Derivation { base: "ci:7", additions, coordinator: "ci-coordinator" }
}

fn request(additions: &Additions, base: &TaskDefinition) -> RegisterTaskDefinitionInput {
    derivation(additions).request(base, &[("fargate-driver:manager", "m")]).unwrap()
}

/// A request in a few lines: what all have in common is left out.
fn shown(request: &RegisterTaskDefinitionInput) -> String {
    let mut text = format!("{}\n", request.family().unwrap_or_default());
    if let Some(platform) = request.runtime_platform() {
        text += &format!("  on {:?}\n", platform.cpu_architecture());
    }
    for c in request.container_definitions() {
        text += &format!("  {} {}", c.name().unwrap_or_default(), c.image().unwrap_or_default());
        text += if c.essential() == Some(true) { "" } else { ", not essential" };
        let parts = [
            c.entry_point.as_ref().map(|words| format!("entry point {words:?}")),
            c.command.as_ref().map(|words| format!("command {words:?}")),
            c.user.as_ref().map(|user| format!("user {user}")),
            c.repository_credentials.as_ref().map(|c| format!("by {}", c.credentials_parameter())),
            c.log_configuration.as_ref().map(|logs| format!("logs by {}", logs.log_driver())),
            c.linux_parameters.as_ref().map(|p| format!("init {:?}", p.init_process_enabled())),
        ];
        for part in parts.into_iter().flatten() {
            text += &format!(", {part}");
        }
        for mount in c.mount_points() {
            let path = mount.container_path().unwrap_or_default();
            text += &format!(", {path} = {}", mount.source_volume().unwrap_or_default());
        }
        text.push('\n');
    }
    let volumes: Vec<_> = request.volumes().iter().filter_map(Volume::name).collect();
    let [.., program] = job_container_command("/fargate");
    text.replace(&format!("{program:?}"), "WAIT") + &format!("  volumes {volumes:?}\n")
}

fn with_entry_point(name: &str, words: &[&str]) -> ContainerImage {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    ContainerImage { entry_point: Some(words), ..image(name) }
}

fn with_credentials(name: &str) -> ContainerImage {
    ContainerImage {
        credentials: Some("arn:aws:secretsmanager:r:1:secret:hub".into()),
        ..image(name)
    }
}

#[test]
fn every_kind_of_addition_is_derived() {
    let images = [
        image("node:22"),
        with_credentials("registry.example.com/a:1"),
        with_entry_point("kaniko:debug", &[""]),
        with_entry_point("tools", &["/entry", "--quiet"]),
        image("alpine@sha256:0123"),
    ];
    let services = [
        vec![],
        vec![service(0, image("postgres:17"), None)],
        vec![
            service(0, with_credentials("redis:8"), Some(&["redis-server", "--save", ""])),
            service(1, with_entry_point("http", &["/bin/httpd"]), Some(&["-f"])),
            service(2, with_entry_point("plain", &[""]), Some(&["run", "it"])),
            service(3, with_entry_point("plain", &[""]), None),
        ],
    ];
    let mut text = String::new();
    let mut count = 0;
    for (number, chosen) in images.iter().enumerate() {
        for services in &services {
            for architecture in [None, Some(Architecture::Arm)] {
                let user = (number == 4).then_some("1000:1000");
                let additions = Additions {
                    architecture,
                    services: services.clone(),
                    ..job(chosen.clone(), user)
                };
                text += &shown(&request(&additions, &base(vec![coordinator()])));
                count += 1;
            }
        }
    }
    for services in services.into_iter().skip(1) {
        let additions = Additions { services, ..Additions::default() };
        text += &shown(&request(&additions, &base(vec![coordinator()])));
        count += 1;
    }
    let other = Additions { architecture: Some(Architecture::X86), ..Additions::default() };
    text += &shown(&request(&other, &base(vec![coordinator()])));
    assert!(count + 1 >= 25, "{count}");
    insta::assert_snapshot!(text);
}

#[test]
fn the_bases_own_volume_at_a_shared_path_is_shared() {
    let mut own = coordinator();
    own.mount_points =
        Some(vec![MountPoint::builder().source_volume("efs").container_path("/cache/").build()]);
    let mut base = base(vec![own]);
    base.volumes = Some(vec![Volume::builder().name("efs").build()]);
    let request = request(&job(image("node:22"), None), &base);
    let of = |at: usize| {
        let mounts = request.container_definitions()[at].mount_points().iter();
        let mut paths: Vec<_> =
            mounts.map(|m| (m.source_volume().unwrap(), m.container_path().unwrap())).collect();
        paths.sort_unstable();
        paths
    };
    let shared = [("efs", "/cache/"), ("fargate-builds", "/builds"), ("fargate-run", "/fargate")];
    assert_eq!((of(0), of(1)), (shared.to_vec(), shared.to_vec()));
}

#[test]
fn a_base_that_cannot_be_extended_is_refused() {
    let named = |name: &str| ContainerDefinition::builder().name(name).image("i").build();
    let additions = job(image("node:22"), None);
    for (containers, why) in [
        (vec![named("other")], "it has no container \"ci-coordinator\""),
        (vec![coordinator(), named("build")], "it has a container \"build\" of its own"),
        (
            std::iter::repeat_with(coordinator).take(MOST_CONTAINERS).collect(),
            "with 1 more containers it has more than 10",
        ),
    ] {
        let refusal = derivation(&additions).request(&base(containers), &[]).unwrap_err();
        assert!(refusal.to_string().contains(why), "{refusal}");
        assert!(refusal.to_string().contains("ci:7"), "{refusal}");
    }
    let mut shared = base(vec![coordinator()]);
    shared.pid_mode = Some(aws_sdk_ecs::types::PidMode::Task);
    let refusal = derivation(&additions).request(&shared, &[]).unwrap_err();
    assert!(refusal.to_string().contains("pidMode"), "{refusal}");
    let mut bridged = base(vec![coordinator()]);
    bridged.network_mode = Some(NetworkMode::Bridge);
    let refusal = derivation(&additions).request(&bridged, &[]).unwrap_err();
    assert!(refusal.to_string().contains("awsvpc"), "{refusal}");
}

#[test]
fn logs_that_need_a_secret_stay_with_the_coordinator() {
    let mut own = coordinator();
    let secret = Secret::builder().name("token").value_from(SECRET).build().unwrap();
    let logs = LogConfiguration::builder()
        .log_driver(LogDriver::Splunk)
        .secret_options(secret)
        .build()
        .unwrap();
    own.log_configuration = Some(logs);
    let request = request(&job(image("node:22"), None), &base(vec![own]));
    assert!(request.container_definitions()[0].log_configuration().is_some());
    assert_eq!(request.container_definitions()[1].log_configuration(), None);
}

#[test]
fn families_have_the_length_that_ecs_admits() {
    let additions = job(image("node:22"), None);
    let base = format!("{}:12", "f".repeat(255));
    let family = Derivation { base: &base, ..derivation(&additions) }.family();
    assert_eq!(family.len(), 255);
}

fn images() -> impl Strategy<Value = ContainerImage> {
    let words = proptest::collection::vec("[a-z/ ]{0,4}", 0..3);
    let (credentials, entry_point) =
        (proptest::option::of("arn:[a-z]{1,3}"), proptest::option::of(words));
    ("[a-z]{1,3}(:[0-9])?", credentials, entry_point).prop_map(
        |(name, credentials, entry_point)| ContainerImage { name, credentials, entry_point },
    )
}

fn additions() -> impl Strategy<Value = Additions> {
    let architecture =
        proptest::option::of(prop_oneof![Just(Architecture::X86), Just(Architecture::Arm)]);
    let wanted = proptest::option::of((images(), proptest::option::of("[a-z]{1,3}")));
    let command = proptest::option::of(proptest::collection::vec("[a-z]{1,3}", 1..3));
    let services = proptest::collection::vec((images(), command), 0..4);
    (architecture, wanted, services).prop_map(|(architecture, wanted, services)| Additions {
        architecture,
        services: services
            .into_iter()
            .enumerate()
            .map(|(number, (image, command))| ServiceContainer {
                command,
                ..service(number, image, None)
            })
            .collect(),
        ..wanted.map_or_else(Additions::default, |(image, user)| job(image, user.as_deref()))
    })
}

proptest! {
    #[test]
    fn equal_additions_have_equal_families(one in additions(), other in additions()) {
        let family = |additions: &Additions| derivation(additions).family();
        prop_assert_eq!(family(&one) == family(&other), one == other);
        let again: Additions = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        prop_assert_eq!(family(&one), family(&again), "a snapshot's additions are the same");
        let newer = Derivation { base: "ci:8", ..derivation(&one) };
        prop_assert_ne!(newer.family(), family(&one));
    }

    #[test]
    fn nothing_of_the_base_is_in_another_container(additions in additions()) {
        let request = request(&additions, &base(vec![coordinator()]));
        let [coordinator, others @ ..] = request.container_definitions() else {
            return Err(TestCaseError::fail("no container"));
        };
        let has_own = |c: &ContainerDefinition| (c.environment().len(), c.secrets().len());
        prop_assert_eq!(has_own(coordinator), (1, 1));
        for container in others {
            prop_assert_eq!(has_own(container), (0, 0));
            let text = format!("{container:?}");
            prop_assert!(!text.contains(SECRET) && !text.contains(OWN), "{}", text);
        }
    }
}
