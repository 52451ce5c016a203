//! What jobs get of their wishes.

use super::*;
use crate::runner::Variables;

fn texts(patterns: &[&str]) -> Option<Vec<String>> {
    Some(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
}

fn images(allowed: &[&str]) -> Images {
    Images { allowed: texts(allowed), ..Images::default() }
}

fn wished(name: &str) -> WishedContainer {
    WishedContainer { name: name.into(), ..WishedContainer::default() }
}

fn with_image(image: WishedContainer) -> Wishes {
    Wishes { image: Some(image), ..Wishes::default() }
}

fn with_services(services: Vec<WishedContainer>) -> Wishes {
    Wishes { services, ..Wishes::default() }
}

fn variable(key: &str, value: &str) -> Variable {
    Variable { key: key.into(), value: value.into(), public: true, ..Variable::default() }
}

fn grant_of(images: &Images, wishes: &Wishes) -> Result<Granted, Refusal> {
    grant(images, &Sizes::default(), Sizing::OfFargate, Some(wishes), &Requests::default())
}

fn sized(sizes: &Sizes, cpu: &str, memory: &str, storage: &str) -> Result<Granted, Refusal> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let requests = Requests {
        cpu: given(cpu),
        memory: given(memory),
        ephemeral_storage: given(storage),
        ..Requests::default()
    };
    grant(&Images::default(), sizes, Sizing::OfFargate, None, &requests)
}

#[test]
fn without_the_setting_an_image_is_ignored_and_the_log_says_which_setting() {
    let granted = grant_of(&Images::default(), &with_image(wished("node:22"))).unwrap();
    assert_eq!(granted.additions, None);
    let [note] = &granted.notes[..] else { panic!("{:?}", granted.notes) };
    assert!(note.contains("node:22 is ignored") && note.contains("Allowed in [Images]"), "{note}");
    let none = grant_of(&Images::default(), &Wishes::default()).unwrap();
    assert_eq!(none, Granted::default(), "nothing to say about nothing");
}

#[test]
fn an_allowed_image_is_the_jobs_container() {
    let options = serde_json::json!({
        "name": "node:22", "entrypoint": ["/entry"], "executor_opts": {"docker": {"user": "node"}}
    });
    let images = Images { mirror: Some("mirror.example".into()), ..images(&["node:*"]) };
    let wishes = with_image(serde_json::from_value(options).unwrap());
    let granted = grant_of(&images, &wishes).unwrap();
    let job = granted.additions.unwrap().job.unwrap();
    assert_eq!(job.image.name, "mirror.example/library/node:22");
    assert_eq!(job.image.entry_point, texts(&["/entry"]));
    assert_eq!(job.user.as_deref(), Some("node"));
    assert_eq!(granted.notes, Vec::<String>::new());
}

#[test]
fn a_refusal_says_what_would_be_allowed() {
    let allowed = Images { services: texts(&["redis:*"]), ..images(&["node:*", "rust:*"]) };
    let image = grant_of(&allowed, &with_image(wished("evil:1\u{1b}[2J"))).unwrap_err();
    assert!(matches!(image, Refusal::ImageName(_)) && !image.to_string().contains('\u{1b}'));
    let image = grant_of(&allowed, &with_image(wished("evil:1"))).unwrap_err().to_string();
    for part in ["the image \"evil:1\"", "node:*, rust:*", "Allowed in [Images]"] {
        assert!(image.contains(part), "{part}: {image}");
    }
    let service = grant_of(&allowed, &with_services(vec![wished("node:1")])).unwrap_err();
    for part in ["the service \"node:1\"", "redis:*", "Services in [Images]"] {
        assert!(service.to_string().contains(part), "{part}: {service}");
    }
    let none = grant_of(&images(&[]), &with_image(wished("node:1"))).unwrap_err().to_string();
    assert!(none.contains("Allowed: none."), "{none}");
}

#[test]
fn an_old_gitlab_runner_is_reported() {
    let granted =
        grant(&images(&["*"]), &Sizes::default(), Sizing::OfFargate, None, &Requests::default())
            .unwrap();
    assert_eq!(granted.additions, None);
    assert!(granted.notes[0].contains("JOB_RESPONSE_FILE"), "{:?}", granted.notes);
}

#[test]
fn services_have_names_ports_and_variables() {
    let database = WishedContainer {
        alias: "db, pg bad_;name".into(),
        ports: vec![serde_json::from_str(r#"{"number":5432}"#).unwrap()],
        variables: vec![variable("POSTGRES_PASSWORD", "secret")],
        command: texts(&["postgres", "-F"]),
        ..wished("postgres:17")
    };
    let cache = WishedContainer {
        variables: vec![variable("HEALTHCHECK_TCP_PORT", "6380")],
        ports: database.ports.clone(),
        ..wished("bitnami/redis")
    };
    let variables = Variables::of_response(&[
        variable("POSTGRES_DB", "app"),
        variable("POSTGRES_PASSWORD", "public"),
        variable("CI_JOB_ID", "1"),
    ]);
    let wishes = Wishes { variables, ..with_services(vec![database, cache]) };
    let granted = grant_of(&images(&["*"]), &wishes).unwrap();
    let services = granted.additions.unwrap().services;
    assert_eq!(services[0].name, "service-0");
    assert_eq!(services[0].aliases, ["db", "pg", "postgres"]);
    assert_eq!((services[0].port, services[1].port), (Some(5432), Some(6380)));
    assert_eq!(services[1].aliases, ["bitnami__redis", "bitnami-redis"]);
    assert_eq!(services[0].command, texts(&["postgres", "-F"]));
    let pairs = |list: &[(&str, &str)]| {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        granted.service_environment,
        [
            (
                "service-0".to_owned(),
                pairs(&[("POSTGRES_DB", "app"), ("POSTGRES_PASSWORD", "secret")])
            ),
            (
                "service-1".to_owned(),
                pairs(&[
                    ("POSTGRES_DB", "app"),
                    ("POSTGRES_PASSWORD", "public"),
                    ("HEALTHCHECK_TCP_PORT", "6380")
                ])
            ),
        ]
    );
    assert!(granted.notes[0].contains("\"bad_;name\""), "{:?}", granted.notes);
}

#[test]
fn ports_that_collide_are_refused() {
    let at = |port: &str, name: &str| WishedContainer {
        variables: vec![variable("HEALTHCHECK_TCP_PORT", port)],
        ..wished(name)
    };
    let both = with_services(vec![at("5432", "postgres:16"), at("5432", "postgres:17")]);
    let refusal = grant_of(&images(&["*"]), &both).unwrap_err().to_string();
    for part in ["postgres:16", "postgres:17", "port 5432"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    for bad in ["0", "x", "65536"] {
        let one = with_services(vec![at(bad, "redis:8")]);
        let refusal = grant_of(&images(&["*"]), &one).unwrap_err().to_string();
        assert!(refusal.contains("redis:8") && refusal.contains(bad), "{refusal}");
    }
    let many = with_services((0..9).map(|n| wished(&format!("s{n}"))).collect());
    assert_eq!(grant_of(&images(&["*"]), &many).unwrap_err(), Refusal::TooManyServices(9));
}

#[test]
fn large_public_variables_are_left_out_and_large_own_ones_refused() {
    let service = |size: usize| WishedContainer {
        variables: vec![variable("OWN", &"x".repeat(size))],
        ..wished("redis:8")
    };
    let variables = Variables::of_response(&[variable("LARGE", &"y".repeat(LONGEST_OVERRIDES))]);
    let wishes = Wishes { variables, ..with_services(vec![service(10)]) };
    let granted = grant_of(&images(&["*"]), &wishes).unwrap();
    assert_eq!(granted.service_environment[0].1.len(), 1);
    assert!(granted.notes[0].contains("too large"), "{:?}", granted.notes);
    let refusal = grant_of(&images(&["*"]), &with_services(vec![service(LONGEST_OVERRIDES)]));
    assert!(matches!(refusal, Err(Refusal::LargeVariables(_))), "{refusal:?}");
}

#[test]
fn sizes_are_granted_within_the_administrators_limits() {
    let sizes = Sizes {
        max_cpu: Some(2048),
        max_memory: Some(8192),
        max_ephemeral_storage: Some(50),
        allowed_task_roles: None,
    };
    let size = |cpu, memory, storage| TaskSize { cpu, memory, ephemeral_storage: storage };
    for (cpu, memory, storage, granted) in [
        ("1024", "4096", "", size(Some(1024), Some(4096), None)),
        ("2 vCPU", "", "", size(Some(2048), Some(4096), None)),
        ("", "8 GB", "30", size(Some(1024), Some(8192), Some(30))),
        ("", "", "50 GiB", size(None, None, Some(50))),
    ] {
        assert_eq!(sized(&sizes, cpu, memory, storage).unwrap().size, granted);
    }
    for (cpu, memory, storage, why) in [
        ("4096", "", "", "FARGATE_CPU 4096 is more than this runner allows: at most 2048"),
        ("", "16384", "", "FARGATE_MEMORY 16384 is more than this runner allows: at most 8192"),
        ("256", "4096", "", "The nearest is FARGATE_CPU=512 with FARGATE_MEMORY=4096"),
        ("1024", "1024", "", "Fargate has no task with FARGATE_CPU=1024 and FARGATE_MEMORY=1024"),
        ("much", "", "", "FARGATE_CPU is \"much\": expected CPU units"),
        ("", "", "51", "at most 50"),
        ("", "", "20", "expected GiB from 21 to 200"),
    ] {
        let refusal = sized(&sizes, cpu, memory, storage).unwrap_err().to_string();
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
}

#[test]
fn what_may_not_be_chosen_is_ignored_and_said() {
    let granted = sized(&Sizes::default(), "1024", "2048", "30").unwrap();
    assert_eq!(granted.size, TaskSize::default());
    let names = ["MaxCpu", "MaxMemory", "MaxEphemeralStorage"];
    for (note, name) in granted.notes.iter().zip(names) {
        assert!(note.contains("is ignored") && note.contains(name), "{note}");
    }
    assert_eq!(granted.notes.len(), 3);
}

/// The driver chooses the other half of a pair, and it counts against its limit.
#[test]
fn a_half_cannot_bring_more_of_the_other_than_allowed() {
    let sizes = Sizes { max_cpu: Some(1024), max_memory: Some(30_720), ..Sizes::default() };
    let refusal = sized(&sizes, "", "20480", "").unwrap_err().to_string();
    assert!(refusal.contains("FARGATE_CPU 4096"), "{refusal}");
}

#[test]
fn roles_are_limited_by_patterns() {
    let requests = |role: &str| Requests { task_role: Some(role.into()), ..Requests::default() };
    let allowed = texts(&["arn:aws:iam::1:role/ci-*"]);
    let sizes = Sizes { allowed_task_roles: allowed, ..Sizes::default() };
    let of = |sizes: &Sizes, role: &str| {
        grant(&Images::default(), sizes, Sizing::OfFargate, None, &requests(role))
    };
    let good = of(&sizes, "arn:aws:iam::1:role/ci-deploy").unwrap();
    assert_eq!(good.task_role.as_deref(), Some("arn:aws:iam::1:role/ci-deploy"));
    let refusal = of(&sizes, "arn:aws:iam::1:role/admin").unwrap_err().to_string();
    assert!(refusal.contains("ci-*") && refusal.contains("AllowedTaskRoles"), "{refusal}");
    let ignored = of(&Sizes::default(), "x").unwrap();
    assert_eq!(ignored.task_role, None);
    assert!(ignored.notes[0].contains("AllowedTaskRoles"), "{:?}", ignored.notes);
}

#[test]
fn the_architecture_is_the_variables_or_the_platforms() {
    let of = |allowed: &Images, name: Option<&str>, platform: &str| {
        let image = serde_json::json!({
            "name": "node:22", "executor_opts": {"docker": {"platform": platform}}
        });
        let wishes = with_image(serde_json::from_value(image).unwrap());
        let architecture = name.map(str::to_owned);
        let requests = Requests { architecture, ..Requests::default() };
        grant(allowed, &Sizes::default(), Sizing::OfFargate, Some(&wishes), &requests)
    };
    let allowed = images(&["*"]);
    for (name, platform, architecture) in [
        (None, "", None),
        (Some("ARM64"), "", Some(Architecture::Arm)),
        (Some("X86_64"), "linux/arm64", Some(Architecture::X86)),
        (None, "linux/arm64/v8", Some(Architecture::Arm)),
        (None, "linux/amd64", Some(Architecture::X86)),
        (None, "windows/amd64", None),
    ] {
        let granted = of(&allowed, name, platform).unwrap();
        assert_eq!(granted.additions.unwrap().architecture, architecture, "{name:?} {platform}");
    }
    assert!(of(&allowed, Some("riscv"), "").is_err());
    let ignored = of(&Images::default(), Some("ARM64"), "").unwrap();
    assert_eq!(ignored.additions, None);
    assert!(ignored.notes.iter().any(|note| note.contains("FARGATE_ARCHITECTURE is ignored")));
}

#[test]
fn a_policy_that_would_keep_an_image_is_said_once() {
    let of = |policies: &[&str]| {
        let pull_policy = texts(policies).unwrap_or_default();
        let image = WishedContainer { pull_policy, ..wished("node:22") };
        grant_of(&images(&["*"]), &with_image(image)).unwrap().notes
    };
    assert_eq!((of(&["always"]).len(), of(&["if-not-present", "always"]).len()), (0, 0));
    assert!(of(&["never"])[0].contains("pull_policy of the image node:22 is ignored"));
}

#[test]
fn on_instances_sizes_are_not_those_of_fargate() {
    let sizes = Sizes { max_cpu: Some(64_000), max_memory: Some(512_000), ..Sizes::default() };
    let requests = Requests {
        cpu: Some("300".into()),
        memory: Some("700".into()),
        ephemeral_storage: Some("50".into()),
        ..Requests::default()
    };
    let of = |sizing| grant(&Images::default(), &sizes, sizing, None, &requests);
    assert!(matches!(of(Sizing::OfFargate), Err(Refusal::Pair { .. })));
    let granted = of(Sizing::OfInstances).unwrap();
    let size = TaskSize { cpu: Some(300), memory: Some(700), ephemeral_storage: None };
    assert_eq!(granted.size, size);
    let [note] = &granted.notes[..] else { panic!("{:?}", granted.notes) };
    assert!(note.starts_with("FARGATE_EPHEMERAL_STORAGE is ignored"), "{note}");
    let too_much = Sizes { max_cpu: Some(256), ..sizes.clone() };
    let refused = grant(&Images::default(), &too_much, Sizing::OfInstances, None, &requests);
    assert!(matches!(refused, Err(Refusal::TooMuch { .. })), "the limits hold: {refused:?}");
}
