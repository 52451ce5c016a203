//! Task definitions: what ECS keeps, refuses, lists and deletes, and how fast they are registered.

use local_cluster::{Faults, LocalCluster, RegistrationRate, Settings};
use serde_json::{Value, json};

use super::{ecs, is, launch, start, until, with};

fn container(name: &str, more: Value) -> Value {
    let mut container = json!({ "name": name, "image": "local" });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn definition(more: Value) -> Value {
    let mut request =
        json!({ "family": "mine", "containerDefinitions": [container("build", json!({}))] });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

async fn unthrottled() -> LocalCluster {
    LocalCluster::start(Settings { registrations: None, ..Settings::default() }).await.unwrap()
}

async fn register(cluster: &LocalCluster, more: Value) -> Result<Value, String> {
    ecs(cluster, "RegisterTaskDefinition", definition(more)).await
}

#[tokio::test]
async fn the_whole_request_is_kept_and_shown() {
    let cluster = start().await;
    let request = json!({
        "family": "everything", "cpu": "1024", "memory": "2 GB", "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"], "ephemeralStorage": { "sizeInGiB": 50 },
        "taskRoleArn": "arn:aws:iam::1:role/job", "executionRoleArn": "arn:aws:iam::1:role/pull",
        "runtimePlatform": { "cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX" },
        "volumes": [{ "name": "fargate-run" }],
        "containerDefinitions": [
            {
                "name": "ci-coordinator", "image": "local", "essential": true, "cpu": 128,
                "secrets": [{ "name": "TOKEN", "valueFrom": "arn:aws:ssm:us-east-1:1:parameter/x" }],
                "environment": [{ "name": "A", "value": "1" }],
                "mountPoints": [{ "sourceVolume": "fargate-run", "containerPath": "/fargate" }],
                "portMappings": [{ "containerPort": 22, "hostPort": 22 }], "volumesFrom": [],
                "logConfiguration": { "logDriver": "awslogs", "options": {
                    "awslogs-region": "us-east-1", "awslogs-group": "jobs", "awslogs-stream-prefix": "ci" } },
            },
            {
                "name": "build", "image": "registry.example.com/ci/debian:12", "essential": true,
                "entryPoint": ["/entry"], "command": ["sh", "-c", "true"], "user": "1000:1000",
                "workingDirectory": "/builds", "stopTimeout": 5, "cpu": 0,
                "linuxParameters": { "initProcessEnabled": true },
                "repositoryCredentials": { "credentialsParameter": "arn:aws:secretsmanager:x" },
                "healthCheck": { "command": ["CMD-SHELL", "true"] },
                "dependsOn": [{ "containerName": "ci-coordinator", "condition": "HEALTHY" }],
                "environment": [], "portMappings": [], "volumesFrom": [],
                "mountPoints": [{ "sourceVolume": "fargate-run", "containerPath": "/fargate", "readOnly": true }],
            },
        ],
    });
    let tags = json!([{ "key": "a", "value": "b" }]);
    let registered =
        ecs(&cluster, "RegisterTaskDefinition", with(request.clone(), "tags", tags.clone()))
            .await
            .unwrap();
    assert_eq!(registered["tags"], tags);
    let name = json!({ "taskDefinition": "everything:1", "include": ["TAGS"] });
    let described = ecs(&cluster, "DescribeTaskDefinition", name).await.unwrap();
    assert_eq!(described["tags"], tags);
    let shown = described["taskDefinition"].as_object().unwrap();
    for (field, value) in request.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!((shown["status"].as_str(), shown["revision"].as_u64()), (Some("ACTIVE"), Some(1)));
    assert!(shown["registeredAt"].as_f64().is_some());
    let untagged = json!({ "taskDefinition": "everything" });
    let described = ecs(&cluster, "DescribeTaskDefinition", untagged).await.unwrap();
    assert!(described.get("tags").is_none());
}

#[tokio::test]
async fn invalid_definitions_are_refused_as_by_ecs() {
    let cluster = unthrottled().await;
    let containers = |containers: Value| json!({ "containerDefinitions": containers });
    let one = |more: Value| containers(json!([container("build", more)]));
    let fargate = |more: Value| {
        let mut request = json!({ "requiresCompatibilities": ["FARGATE"] });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let depends = |on: &str, condition: &str| json!({ "dependsOn": [{ "containerName": on, "condition": condition }] });
    let cases = [
        (json!({ "family": "a.b" }), "Family contains invalid characters."),
        (json!({ "family": "x".repeat(256) }), "Family contains invalid characters."),
        (json!({ "family": "" }), "Family should not be null or empty."),
        (containers(json!([])), "Container list cannot be empty."),
        (
            containers((0..11).map(|n| container(&format!("c{n}"), json!({}))).collect()),
            "at most 10 containers",
        ),
        (one(json!({ "name": "a b" })), "Container.name contains invalid characters."),
        (one(json!({ "image": "" })), "Container.image should not be null or empty."),
        (one(json!({ "essential": false })), "marked as essential"),
        (
            containers(json!([container("a", json!({})), container("a", json!({}))])),
            "must be unique: 'a'",
        ),
        (
            one(json!({ "mountPoints": [{ "sourceVolume": "gone", "containerPath": "/x" }] })),
            "Unknown volume 'gone'.",
        ),
        (one(depends("gone", "START")), "does not exist: 'gone'"),
        (one(depends("build", "SOON")), "Invalid dependency condition 'SOON'"),
        (one(depends("build", "START")), "circular"),
        (
            one(json!({ "extraHosts": [{ "hostname": "db", "ipAddress": "127.0.0.1" }] })),
            "Extra hosts are not supported when networkMode=awsvpc.",
        ),
        (one(json!({ "stopTimeout": 121 })), "stopTimeout"),
        (one(json!({ "portMappings": [{ "containerPort": 80, "hostPort": 81 }] })), "must match"),
        (one(json!({ "logConfiguration": { "logDriver": "awslogs" } })), "awslogs-region"),
        (fargate(json!({ "memory": "512" })), "requires that 'cpu' be defined"),
        (fargate(json!({ "cpu": "256" })), "requires that 'memory' be defined"),
        (
            fargate(json!({ "cpu": "256", "memory": "4096" })),
            "No Fargate configuration exists for given values: 256 CPU, 4096 memory.",
        ),
        (json!({ "networkMode": "bridge" }), "network mode"),
        (json!({ "ephemeralStorage": { "sizeInGiB": 20 } }), "between 21 and 200"),
        (json!({ "ephemeralStorage": { "sizeInGiB": 201 } }), "between 21 and 200"),
        (json!({ "runtimePlatform": { "cpuArchitecture": "MIPS" } }), "cpuArchitecture"),
        (
            one(json!({ "command": ["x".repeat(64 * 1024)] })),
            "Max allowed length is '65536' bytes.",
        ),
    ];
    for (more, expected) in cases {
        let error = register(&cluster, more).await.unwrap_err();
        assert!(error.starts_with("400 ClientException") && error.contains(expected), "{error}");
    }
    let tagged = json!({ "tags": [{ "key": "aws:x", "value": "y" }] });
    let error = register(&cluster, tagged).await.unwrap_err();
    assert!(
        error.contains("InvalidParameterException") && error.contains("Invalid tag"),
        "{error}"
    );
    let all = ecs(&cluster, "ListTaskDefinitions", json!({ "familyPrefix": "mine" })).await;
    assert_eq!(all.unwrap()["taskDefinitionArns"], json!([]));
}

#[tokio::test]
async fn an_inactive_definition_is_described_and_runs_no_task() {
    let cluster = start().await;
    register(&cluster, json!({})).await.unwrap();
    let one = json!({ "taskDefinition": "mine:1" });
    let inactive = ecs(&cluster, "DeregisterTaskDefinition", one.clone()).await.unwrap();
    assert_eq!(inactive["taskDefinition"]["status"], "INACTIVE");
    let described = ecs(&cluster, "DescribeTaskDefinition", one.clone()).await.unwrap();
    assert_eq!(described["taskDefinition"]["status"], "INACTIVE");
    assert!(described["taskDefinition"]["deregisteredAt"].as_f64().is_some());
    let by_family =
        ecs(&cluster, "DescribeTaskDefinition", json!({ "taskDefinition": "mine" })).await;
    assert!(by_family.unwrap_err().contains("Unable to describe task definition."));
    let mut run = with(launch(), "taskDefinition", json!("mine:1"));
    run["overrides"] = json!({});
    let refused = ecs(&cluster, "RunTask", run).await.unwrap_err();
    assert!(refused.contains("ClientException") && refused.contains("TaskDefinition is inactive"));
    let families = async |status: &str| {
        let of = json!({ "familyPrefix": "mi", "status": status });
        ecs(&cluster, "ListTaskDefinitionFamilies", of).await.unwrap()["families"].clone()
    };
    assert_eq!(
        (families("ACTIVE").await, families("INACTIVE").await),
        (json!([]), json!(["mine"]))
    );
    let unknown = ecs(&cluster, "DeregisterTaskDefinition", json!({ "taskDefinition": "mine" }));
    assert!(unknown.await.unwrap_err().contains("revision"));
}

#[tokio::test]
async fn only_inactive_definitions_are_deleted() {
    let cluster = start().await;
    for _ in 0..2 {
        register(&cluster, json!({})).await.unwrap();
    }
    // A task keeps its definition until it has stopped.
    let mut run = with(launch(), "taskDefinition", json!("mine:1"));
    run["overrides"] = json!({});
    let launched = ecs(&cluster, "RunTask", run).await.unwrap();
    let task = launched["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
    ecs(&cluster, "DeregisterTaskDefinition", json!({ "taskDefinition": "mine:1" })).await.unwrap();
    let delete = json!({ "taskDefinitions": ["mine:1", "mine:2", "mine:9"] });
    let answer = ecs(&cluster, "DeleteTaskDefinitions", delete).await.unwrap();
    assert_eq!(answer["taskDefinitions"][0]["status"], "DELETE_IN_PROGRESS");
    assert_eq!(answer["taskDefinitions"].as_array().unwrap().len(), 1);
    let reasons: Vec<&str> = answer["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["reason"].as_str().unwrap())
        .collect();
    assert!(reasons[0].contains("ACTIVE") && reasons[1].contains("does not exist"), "{reasons:?}");
    let one = json!({ "taskDefinition": "mine:1" });
    assert!(ecs(&cluster, "DescribeTaskDefinition", one.clone()).await.is_ok());
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    until(&cluster, &task, is("STOPPED")).await;
    assert!(ecs(&cluster, "DescribeTaskDefinition", one).await.is_err());
    let many: Vec<String> = (1..=11).map(|revision| format!("mine:{revision}")).collect();
    let refused = ecs(&cluster, "DeleteTaskDefinitions", json!({ "taskDefinitions": many })).await;
    assert!(refused.unwrap_err().contains("more than 10"));
}

#[tokio::test]
async fn definitions_and_families_are_listed_in_pages() {
    let cluster = start().await;
    for family in ["mine", "mine", "mine-2", "mine"] {
        register(&cluster, json!({ "family": family })).await.unwrap();
    }
    let list = |action: &'static str, more: Value| ecs(&cluster, action, more);
    let mine = json!({ "familyPrefix": "mine", "maxResults": 2 });
    let first = list("ListTaskDefinitions", mine.clone()).await.unwrap();
    let rest = with(mine.clone(), "nextToken", first["nextToken"].clone());
    let second = list("ListTaskDefinitions", rest).await.unwrap();
    let names = |page: &Value| -> Vec<String> {
        let arns = page["taskDefinitionArns"].as_array().unwrap().iter();
        arns.map(|arn| arn.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!([names(&first), names(&second)].concat(), ["mine:1", "mine:2", "mine:3"]);
    assert!(second.get("nextToken").is_none());
    let descending = list("ListTaskDefinitions", with(mine, "sort", json!("DESC"))).await.unwrap();
    assert_eq!(names(&descending), ["mine:3", "mine:2"]);
    let first = list("ListTaskDefinitionFamilies", json!({ "maxResults": 2 })).await.unwrap();
    assert_eq!(first["families"], json!(["local-job", "mine"]));
    let rest = json!({ "maxResults": 2, "nextToken": first["nextToken"] });
    let second = list("ListTaskDefinitionFamilies", rest).await.unwrap();
    assert_eq!(second, json!({ "families": ["mine-2"] }));
}

#[tokio::test]
async fn registrations_have_a_rate() {
    // Refilled so slowly that the test does not see it.
    let rate = RegistrationRate { per_second: 1e-9, burst: 2 };
    let cluster =
        LocalCluster::start(Settings { registrations: Some(rate), ..Settings::default() })
            .await
            .unwrap();
    for _ in 0..2 {
        register(&cluster, json!({})).await.unwrap();
    }
    let throttled = register(&cluster, json!({})).await.unwrap_err();
    assert_eq!(throttled, "400 ThrottlingException: \"Rate exceeded\"");
    let cluster = unthrottled().await;
    for _ in 0..30 {
        register(&cluster, json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_registrations_of_a_family_are_refused() {
    let cluster = start().await;
    let words = "Too many concurrent attempts to create a new revision of the specified family.";
    cluster.set_faults(Faults { concurrent_registrations: 1, ..Faults::default() });
    let refused = register(&cluster, json!({})).await.unwrap_err();
    assert!(refused.contains("ClientException") && refused.contains(words), "{refused}");
    register(&cluster, json!({})).await.unwrap();
    // While the answer of one is under way.
    let delay = [("RegisterTaskDefinition".to_owned(), 300)].into();
    cluster.set_faults(Faults { delay_ms: delay, ..Faults::default() });
    let (first, second) =
        tokio::join!(register(&cluster, json!({})), register(&cluster, json!({})));
    let refused: Vec<&String> =
        [&first, &second].into_iter().filter_map(|a| a.as_ref().err()).collect();
    assert!(matches!(refused[..], [error] if error.contains(words)), "{first:?} {second:?}");
    let (first, other) = tokio::join!(
        register(&cluster, json!({})),
        register(&cluster, json!({ "family": "other" }))
    );
    assert!(first.is_ok() && other.is_ok());
}

#[tokio::test]
async fn a_task_s_size_is_overridden_within_fargate_s_sizes() {
    let cluster = start().await;
    register(&cluster, json!({ "cpu": "256", "memory": "512" })).await.unwrap();
    let run = async |overrides: Value| {
        let run = with(with(launch(), "taskDefinition", json!("mine")), "overrides", overrides);
        ecs(&cluster, "RunTask", run).await.map(|answer| answer["tasks"][0].clone())
    };
    let task = run(json!({})).await.unwrap();
    assert_eq!((&task["cpu"], &task["memory"]), (&json!("256"), &json!("512")));
    let overrides = json!({
        "cpu": "1024", "memory": "4096", "ephemeralStorage": { "sizeInGiB": 100 },
        "taskRoleArn": "arn:aws:iam::1:role/ci-deploy",
        "containerOverrides": [{ "name": "build", "command": ["true"] }],
    });
    let task = run(overrides.clone()).await.unwrap();
    assert_eq!((&task["cpu"], &task["memory"]), (&json!("1024"), &json!("4096")));
    assert_eq!(task["ephemeralStorage"], json!({ "sizeInGiB": 100 }));
    assert_eq!(task["overrides"], overrides);
    for (overrides, expected) in [
        (
            json!({ "cpu": "1024" }),
            "No Fargate configuration exists for given values: 1024 CPU, 512",
        ),
        (json!({ "ephemeralStorage": { "sizeInGiB": 5 } }), "between 21 and 200"),
        (json!({ "taskRoleArn": "admin" }), "Invalid role"),
        (
            json!({ "containerOverrides": [{ "name": "build", "environment": [
                { "name": "X", "value": "x".repeat(8192) }] }] }),
            "Container Overrides length must be at most 8192",
        ),
    ] {
        let error = run(overrides).await.unwrap_err();
        assert!(
            error.starts_with("400 InvalidParameterException") && error.contains(expected),
            "{error}"
        );
    }
}
