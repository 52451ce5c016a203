//! Mistakes, planted one at a time in an account that is ready: each is found and explained, and
//! nothing else fails.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use super::{
    manager_mistakes::MANAGER_MISTAKES,
    scene::{Scene, ec2, rule},
};

/// A mistake: the problem's name, whether it is a failure, a word of its explanation, and how to make
/// it.
pub(super) type Mistake = (&'static str, Severity, &'static str, fn(&mut Scene));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Failure,
    Warning,
}

use Severity::{Failure, Warning};

/// Mistakes in the account and in `fargate.toml`, over SSH.
const MISTAKES: &[Mistake] = &[
    ("wrong-setting", Failure, "Subnets", |scene| scene.edit("Subnets = [", "Subnets = 7 # [")),
    ("doubtful-setting", Warning, "Clutser", |scene| {
        scene.edit("[Fargate]", "[Fargate]\nClutser = \"x\"");
    }),
    ("open-task-definitions", Warning, "every project", |scene| {
        scene.edit("AllowedTaskDefinitions = []", "");
    }),
    ("no-public-address", Failure, "EnablePublicIP", |scene| {
        scene.edit("[Fargate]", "[Fargate]\nUsePublicIP = true");
        // Else the manager's private address is what is not admitted.
        ec2("AuthorizeSecurityGroupIngress", &rule(&scene.group, "22", "0.0.0.0/0"), "x");
        scene.edit("Transport", "SSH = { VerifyHost = \"required\" }\nTransport");
    }),
    ("no-region", Failure, "region", |scene| scene.edit("Region = \"us-east-1\"", "")),
    ("bad-prices", Warning, "published", |scene| {
        let file = scene.path("prices.toml");
        std::fs::write(&file, "currency = \"USD\"\n").unwrap();
        scene.edit("[Fargate]", &format!("[Fargate]\nShowCost = true\nPrices = {file:?}"));
    }),
    ("not-a-region", Failure, "us-east-1a", |scene| {
        scene.edit("\"us-east-1\"", "\"us-east-1a\"");
    }),
    ("no-answer", Failure, "AWS_ENDPOINT_URL", |scene| {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        scene.environment.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
        scene.environment.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{port}")));
    }),
    ("short-deadline", Warning, "Pending is 15 s", |scene| {
        scene.config.push_str("[Deadlines]\nPending = \"15s\"\n");
    }),
    ("no-credentials", Failure, "AWS_PROFILE is prodd", |scene| {
        scene.environment.retain(|(name, _)| name != "AWS_ACCESS_KEY_ID");
        scene.environment.push(("AWS_PROFILE".to_owned(), "prodd".to_owned()));
    }),
    ("credentials-refused", Failure, "ExpiredToken", |scene| {
        scene.front.behave(|front| front.are_credentials_expired = true);
    }),
    ("no-credentials", Failure, "no AWS credentials", |scene| {
        scene.environment.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    }),
    ("fixed-session", Warning, "AWS_SESSION_TOKEN", |scene| {
        scene.environment.push(("AWS_SESSION_TOKEN".to_owned(), "token".to_owned()));
    }),
    ("root-credentials", Warning, "root", |scene| {
        scene.front.behave(|front| {
            front.replaced.push(("GetCallerIdentity", ":user/moto".into(), ":root".into()));
        });
    }),
    ("other-account", Failure, "111122223333", |scene| {
        let arn = "arn:aws:ecs:us-east-1:111122223333:cluster/";
        scene.edit("Cluster = \"", &format!("Cluster = \"{arn}"));
    }),
    ("arn-of-other-region", Failure, "eu-west-1", |scene| {
        let arn = "arn:aws:ecs:eu-west-1:123456789012:cluster/";
        scene.edit("Cluster = \"", &format!("Cluster = \"{arn}"));
    }),
    ("clock-wrong", Failure, "ahead of AWS's", |scene| {
        scene.front.behave(|front| front.clock_behind = 900);
    }),
    ("clock-drifts", Warning, "behind AWS's", |scene| {
        scene.front.behave(|front| front.clock_behind = -60);
    }),
    ("no-cluster", Failure, "no cluster other", |scene| {
        let name = format!("Cluster = \"{}\"", scene.name);
        scene.edit(&name, "Cluster = \"other\"");
    }),
    ("cluster-inactive", Failure, "DEPROVISIONING", |scene| {
        scene.set("DescribeClusters", "/clusters/0/status", json!("DEPROVISIONING"));
    }),
    ("no-default-strategy", Failure, "LaunchType", |scene| {
        scene.set("DescribeClusters", "/clusters/0/defaultCapacityProviderStrategy", json!([]));
    }),
    ("strategy-without-fargate", Failure, "instances", |scene| {
        let strategy = json!([{ "capacityProvider": "instances", "weight": 1, "base": 0 }]);
        scene.set("DescribeClusters", "/clusters/0/defaultCapacityProviderStrategy", strategy);
        scene.set("DescribeClusters", "/clusters/0/capacityProviders", json!(["instances"]));
    }),
    ("provider-not-attached", Failure, "FARGATE_SPOT", |scene| {
        scene.set("DescribeClusters", "/clusters/0/capacityProviders", json!(["FARGATE"]));
        scene.edit(
            "[Fargate]",
            "[Fargate]\nCapacityProviders = [{ Name = \"FARGATE\", Weight = 1 }, { Name = \"FARGATE_SPOT\", Weight = 3 }]",
        );
    }),
    ("spot-only", Warning, "Spot", |scene| {
        scene.edit(
            "[Fargate]",
            "[Fargate]\nCapacityProviders = [{ Name = \"FARGATE_SPOT\", Weight = 1 }]",
        );
    }),
    ("not-a-platform", Failure, "1.4", |scene| {
        scene.edit("[Fargate]", "[Fargate]\nPlatformVersion = \"1.4\"");
    }),
    ("no-task-definition", Failure, "missing:7", |scene| {
        let name = format!("TaskDefinition = \"{}\"", scene.name);
        scene.edit(&name, "TaskDefinition = \"missing:7\"");
    }),
    ("definition-inactive", Failure, "INACTIVE", |scene| {
        scene.set("DescribeTaskDefinition", "/taskDefinition/status", json!("INACTIVE"));
    }),
    ("not-awsvpc", Failure, "bridge", |scene| {
        scene.set("DescribeTaskDefinition", "/taskDefinition/networkMode", json!("bridge"));
    }),
    ("not-for-fargate", Failure, "not compatible", |scene| {
        scene.definition["requiresCompatibilities"] = json!(["EC2"]);
    }),
    ("no-task-size", Failure, "memory", |scene| {
        scene.set("DescribeTaskDefinition", "/taskDefinition/memory", Value::Null);
    }),
    ("not-linux", Failure, "WINDOWS_SERVER_2022_CORE", |scene| {
        let system = json!("WINDOWS_SERVER_2022_CORE");
        scene.definition["runtimePlatform"]["operatingSystemFamily"] = system;
    }),
    ("not-extensible", Failure, "pidMode", |scene| {
        scene.config.push_str("[Images]\nAllowed = [\"*\"]\n");
        scene.definition["pidMode"] = json!("task");
    }),
    ("no-container", Failure, "ci-coordinator", |scene| {
        scene.container()["name"] = json!("main");
    }),
    ("not-essential", Warning, "essential", |scene| {
        scene.set(
            "DescribeTaskDefinition",
            "/taskDefinition/containerDefinitions/0/essential",
            json!(false),
        );
    }),
    ("other-essential", Warning, "sidecar", |scene| {
        let sidecar =
            json!({ "name": "sidecar", "image": "public.ecr.aws/ci/sidecar:1", "memory": 16 });
        scene.definition["containerDefinitions"].as_array_mut().unwrap().push(sidecar);
    }),
    ("other-port", Warning, "maps port 22, and [SSH] Port is 2222", |scene| {
        scene.config.push_str("[SSH]\nPort = 2222\n");
        ec2("AuthorizeSecurityGroupIngress", &rule(&scene.group, "2222", "10.7.0.0/24"), "x");
    }),
    ("no-ssh-server", Failure, "sleep infinity", |scene| {
        scene.container()["entryPoint"] = json!(["sleep", "infinity"]);
    }),
    ("read-only-root", Failure, "read-only", |scene| {
        scene.container()["readonlyRootFilesystem"] = json!(true);
    }),
    ("no-log", Warning, "why it ended", |scene| {
        scene.container().as_object_mut().unwrap().remove("logConfiguration");
    }),
    ("no-log-group", Failure, "/ecs/missing", |scene| {
        scene.container()["logConfiguration"]["options"]["awslogs-group"] = json!("/ecs/missing");
    }),
    ("no-execution-role", Failure, "images in ECR", |scene| {
        scene.definition.as_object_mut().unwrap().remove("executionRoleArn");
    }),
    ("no-role", Failure, "role/missing", |scene| {
        scene.definition["taskRoleArn"] = json!("arn:aws:iam::123456789012:role/missing");
    }),
    ("role-not-for-tasks", Failure, "ecs-tasks.amazonaws.com", |scene| {
        let (from, to) = ("ecs-tasks.amazonaws.com", "lambda.amazonaws.com");
        scene.front.behave(|front| front.replaced.push(("GetRole", from.into(), to.into())));
    }),
    ("no-repository", Failure, "no repository", |scene| {
        let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/missing:1";
        scene.container()["image"] = json!(image);
    }),
    ("no-image", Failure, ":typo", |scene| {
        let image = format!("{}:typo", scene.container()["image"].as_str().unwrap());
        scene.container()["image"] = json!(image);
    }),
    ("large-image", Warning, "SOCI", |scene| {
        scene.set("DescribeImages", "/imageDetails/0/imageSizeInBytes", json!(3_000_000_000_u64));
    }),
    ("other-region", Warning, "eu-west-1", |scene| {
        let image = scene.container()["image"].as_str().unwrap().replace("us-east-1", "eu-west-1");
        scene.container()["image"] = json!(image);
    }),
    ("docker-hub", Warning, "pull-through cache", |scene| {
        scene.container()["image"] = json!("debian:12");
    }),
    ("no-subnet", Failure, "subnet-0missing0", |scene| {
        let subnet = scene.subnet.clone();
        scene.edit(&subnet, "subnet-0missing0");
    }),
    ("several-vpcs", Failure, "several VPCs", |scene| {
        let vpc = ec2("CreateVpc", &[("CidrBlock", "10.8.0.0/16")], "vpcId");
        let cidr = [("VpcId", vpc.as_str()), ("CidrBlock", "10.8.1.0/24")];
        let other = ec2("CreateSubnet", &cidr, "subnetId");
        scene.edit("Subnets = [", &format!("Subnets = [\"{other}\", "));
    }),
    ("few-addresses", Warning, "up to 400 jobs", |scene| {
        scene.edit_runner("concurrent = 10", "concurrent = 400");
    }),
    ("subnet-full", Failure, "no free address", |scene| {
        scene.front.behave(|front| {
            let count = |number: &str| {
                format!("<availableIpAddressCount>{number}</availableIpAddressCount>")
            };
            // NAT has one of the 251.
            front.replaced.push(("DescribeSubnets", count("250"), count("0")));
        });
    }),
    ("blackhole", Failure, "does not exist any more", |scene| {
        scene.front.behave(|front| {
            let route = "<destinationCidrBlock>0.0.0.0/0</destinationCidrBlock>";
            let dead = format!("{route}<state>blackhole</state>");
            front.replaced.push((
                "DescribeRouteTables",
                "<state>active</state>".into(),
                String::new(),
            ));
            front.replaced.push(("DescribeRouteTables", route.into(), dead));
        });
    }),
    ("no-route", Failure, "ecr.api, ecr.dkr, s3, logs", |scene| scene.route_to("", "")),
    ("public-without-address", Failure, "EnablePublicIP", |scene| {
        scene.route_to("GatewayId", &scene.gateway);
    }),
    ("no-route-to-registry", Failure, "registry.example.com/job", |scene| {
        scene.container()["image"] = json!("registry.example.com/job:1");
        scene.route_to("", "");
    }),
    ("no-private-dns", Failure, "ecr.api", |scene| {
        scene.route_to("", "");
        for service in ["ecr.api", "ecr.dkr", "logs", "s3"] {
            let name = format!("com.amazonaws.us-east-1.{service}");
            let kind = if service == "s3" { "Gateway" } else { "Interface" };
            let private = if service == "ecr.api" { "false" } else { "true" };
            ec2(
                "CreateVpcEndpoint",
                &[
                    ("VpcId", scene.vpc.as_str()),
                    ("ServiceName", &name),
                    ("VpcEndpointType", kind),
                    ("PrivateDnsEnabled", private),
                    ("RouteTableId.1", &scene.table),
                    ("SubnetId.1", &scene.subnet),
                ],
                "x",
            );
        }
    }),
    ("no-dns", Failure, "enableDnsSupport", |scene| {
        let attribute = [("VpcId", scene.vpc.as_str()), ("EnableDnsSupport.Value", "false")];
        ec2("ModifyVpcAttribute", &attribute, "x");
    }),
    ("no-security-group", Failure, "sg-0missing0", |scene| {
        let group = scene.group.clone();
        scene.edit(&group, "sg-0missing0");
    }),
    ("other-vpc", Failure, "subnets are in", |scene| {
        let vpc = ec2("CreateVpc", &[("CidrBlock", "10.8.0.0/16")], "vpcId");
        let name = format!("{}-2", scene.name);
        let wanted = [("GroupName", name.as_str()), ("GroupDescription", "ci"), ("VpcId", &vpc)];
        let other = ec2("CreateSecurityGroup", &wanted, "groupId");
        ec2("AuthorizeSecurityGroupIngress", &rule(&other, "22", "10.7.0.0/24"), "x");
        let group = scene.group.clone();
        scene.edit(&group, &other);
    }),
    ("manager-not-admitted", Failure, "10.7.0.9", |scene| {
        ec2("RevokeSecurityGroupIngress", &rule(&scene.group, "22", "10.7.0.0/24"), "x");
        ec2("AuthorizeSecurityGroupIngress", &rule(&scene.group, "22", "198.51.100.0/24"), "x");
    }),
    ("open-to-all", Warning, "every address", |scene| {
        scene.edit("[Fargate]", "[Fargate]\nEnablePublicIP = true");
        ec2("AuthorizeSecurityGroupIngress", &rule(&scene.group, "22", "0.0.0.0/0"), "x");
    }),
    ("no-egress", Failure, "443", |scene| {
        let all = [
            ("GroupId", scene.group.as_str()),
            ("IpPermissions.1.IpProtocol", "-1"),
            ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
        ];
        ec2("RevokeSecurityGroupEgress", &all, "x");
    }),
    ("not-permitted", Failure, "ecs:StopTask", |scene| {
        scene.front.behave(|front| {
            front.not_simulated.insert("ecs:StopTask".to_owned());
        });
    }),
    ("not-permitted", Failure, "ecs:DescribeTasks", |scene| {
        // Neither the simulator nor the call itself.
        scene.front.behave(|front| {
            front.denied.insert("SimulatePrincipalPolicy".to_owned());
            front.denied.insert("DescribeTasks".to_owned());
        });
    }),
    ("not-permitted", Failure, "ecs:ListTasks", |scene| {
        scene.front.behave(|front| {
            front.denied.insert("SimulatePrincipalPolicy".to_owned());
            front.denied.insert("ListTasks".to_owned());
        });
    }),
    ("claims-not-tagged", Warning, "ecs:TagResource", |scene| {
        scene.config.push_str("[[Warm]]\nCount = 1\n");
        scene.front.behave(|front| {
            front.not_simulated.insert("ecs:TagResource by aws:TagKeys".to_owned());
        });
    }),
    ("role-lacks", Failure, "logs:CreateLogStream", |scene| {
        scene.front.behave(|front| {
            front.not_simulated.insert("logs:CreateLogStream".to_owned());
        });
    }),
    ("role-lacks", Failure, "cannot pull their image", |scene| {
        scene.front.behave(|front| {
            front.not_simulated.insert("ecr:BatchGetImage".to_owned());
        });
    }),
    ("role-not-passable", Failure, "task role", |scene| {
        scene.front.behave(|front| {
            front.not_simulated.insert("iam:PassRole".to_owned());
        });
    }),
    ("quota-too-low", Failure, "0.5 vCPUs", |scene| {
        scene.front.behave(|front| {
            front.quotas.insert("L-3032A538".to_owned(), 0.5);
        });
    }),
    ("quota-below-concurrent", Warning, "10 concurrent jobs", |scene| {
        scene.front.behave(|front| {
            front.quotas.insert("L-3032A538".to_owned(), 6.0);
        });
    }),
    ("above-launch-rate", Warning, "up to 120 jobs", |scene| {
        scene.edit_runner("concurrent = 10", "concurrent = 120");
        scene.front.behave(|front| {
            front.quotas.insert("L-3032A538".to_owned(), 4000.0);
        });
    }),
    ("same-manager", Warning, "/srv/other", |scene| {
        let arn = format!("arn:aws:ecs:us-east-1:123456789012:task/{}/0a", scene.name);
        let tag = |key: &str, value: &str| json!({ "key": key, "value": value });
        scene.set("ListTasks", "/taskArns", json!([arn]));
        scene.set("DescribeTasks", "/tasks", json!([{
            "taskArn": arn, "startedBy": "gitlab-1-x", "desiredStatus": "RUNNING", "lastStatus": "RUNNING",
            "tags": [tag("fargate-driver:job", "x"), tag("fargate-driver:manager", &scene.name), tag("fargate-driver:directory", "/srv/other")],
        }]));
    }),
];

/// Mistakes that matter over ECS Exec.
const ECS_EXEC_MISTAKES: &[Mistake] = &[
    ("no-task-role", Failure, "no task role", |scene| {
        scene.definition.as_object_mut().unwrap().remove("taskRoleArn");
    }),
    ("no-exec-agent-permission", Failure, "ssmmessages:CreateDataChannel", |scene| {
        scene.front.behave(|front| {
            front.not_simulated.insert("ssmmessages:CreateDataChannel".to_owned());
            front.not_simulated.insert("ssmmessages:OpenControlChannel".to_owned());
        });
    }),
    ("shared-processes", Warning, "pidMode", |scene| {
        scene.definition["pidMode"] = json!("task");
    }),
    ("no-init-process", Warning, "init process", |scene| {
        scene.container().as_object_mut().unwrap().remove("linuxParameters");
    }),
    ("sessions-logged", Warning, "OVERRIDE", |scene| {
        let logging = json!({ "executeCommandConfiguration": { "logging": "OVERRIDE" } });
        scene.set("DescribeClusters", "/clusters/0/configuration", logging);
    }),
    ("role-lacks", Failure, "kms:GenerateDataKey", |scene| {
        let key = "arn:aws:kms:us-east-1:123456789012:key/0a";
        let settings =
            json!({ "executeCommandConfiguration": { "logging": "NONE", "kmsKeyId": key } });
        scene.set("DescribeClusters", "/clusters/0/configuration", settings);
        scene.front.behave(|front| {
            front.not_simulated.insert("kms:GenerateDataKey".to_owned());
            front.not_simulated.insert("kms:Decrypt".to_owned());
        });
    }),
    ("platform-too-old", Failure, "1.3.0", |scene| {
        scene.edit("[Fargate]", "[Fargate]\nPlatformVersion = \"1.3.0\"");
    }),
    ("no-route", Failure, "ssmmessages", |scene| scene.route_to("", "")),
];

/// Plants mistakes, and returns what was not found as it should be.
fn wrong(mistakes: &[Mistake], make: fn() -> Scene) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(mistake) = mistakes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    wrong.lock().unwrap().extend(examine(*mistake, make));
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

/// Plants one mistake. Returns what is wrong with doctor's report.
fn examine((name, severity, word, plant): Mistake, make: fn() -> Scene) -> Option<String> {
    let mut scene = make();
    plant(&mut scene);
    let examined = scene.examine();
    let (failures, warnings) = (examined.problems("failure"), examined.problems("warning"));
    let failed: Vec<&str> = if severity == Failure { vec![name] } else { Vec::new() };
    let mut distinct = failures.clone();
    distinct.dedup();
    let is_found = distinct == failed && (severity == Failure || warnings.contains(&name));
    let explained = examined.outcomes.iter().any(|outcome| {
        let text = |field: &str| outcome[field].as_str().unwrap_or_default().to_owned();
        let both = format!("{} {}", text("says"), text("remedy"));
        outcome["problem"] == name && both.contains(word) && text("remedy").len() > 10
    });
    let code = if severity == Failure {
        Some(1)
    } else if examined.outcomes.iter().any(|outcome| outcome["status"] == "unknown") {
        Some(3)
    } else {
        Some(0)
    };
    if is_found && explained && examined.code == code {
        return None;
    }
    let bad: Vec<&Value> =
        examined.outcomes.iter().filter(|outcome| outcome["status"] != "pass").collect();
    Some(format!("{name} ({word:?}), exit code {:?}: {bad:#?}{}", examined.code, examined.stderr))
}

#[test]
#[ignore = "needs moto: scripts/test installs it and runs this"]
fn each_planted_mistake_is_found_and_nothing_else_fails() {
    let wrong = [
        wrong(MISTAKES, Scene::new),
        wrong(MANAGER_MISTAKES, Scene::new),
        wrong(ECS_EXEC_MISTAKES, Scene::by_ecs_exec),
    ]
    .concat();
    assert!(wrong.is_empty(), "{} mistakes:\n{}", wrong.len(), wrong.join("\n"));
}

/// A problem without a mistake is one that no test has seen.
#[test]
fn each_problem_is_planted() {
    use fargate_driver::doctor::Problem;
    // Seen by other tests: no test fills a disk or mounts a network file system.
    const BY_OTHER_TESTS: [&str; 4] =
        ["network-file-system", "disk-full", "disk-nearly-full", "launch-failed"];
    let all = [MISTAKES, MANAGER_MISTAKES, ECS_EXEC_MISTAKES].concat();
    let planted = |name: &str| all.iter().any(|mistake| mistake.0 == name);
    for problem in Problem::ALL {
        let name = problem.name();
        assert_ne!(planted(&name), BY_OTHER_TESTS.contains(&&*name), "{name}");
    }
}
