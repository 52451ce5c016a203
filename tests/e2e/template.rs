//! deploy/cloudformation on moto: what the stack's outputs say works.

use std::{collections::HashMap, fs, process::Command};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::{
    cluster::Cluster,
    doctor::{Front, doctor, ec2},
    http,
    moto::{self, Moto},
    runner::Job,
};

const TEMPLATE: &str = include_str!("../../deploy/cloudformation/fargate.yaml");

/// Calls CloudFormation, and returns its answer.
fn cloudformation(action: &str, parameters: &[(&str, &str)]) -> String {
    let mut body = format!("Action={action}&Version=2010-05-15");
    for (name, value) in parameters {
        body.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    }
    let headers = [
        &*moto::authorization("cloudformation"),
        "content-type: application/x-www-form-urlencoded",
    ];
    let answer = http::request(moto::server(), "POST", "/", &headers, body.as_bytes());
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert_eq!(answer.status(), 200, "{action}: {text}");
    text
}

/// The outputs of a stack.
struct Outputs(Vec<(String, String)>);

impl Outputs {
    /// Deploys the template as a stack.
    fn of(stack: &str, parameters: &[(&str, &str)]) -> Self {
        let mut named = vec![
            ("StackName".to_owned(), stack),
            ("Capabilities.member.1".to_owned(), "CAPABILITY_IAM"),
            ("TemplateBody".to_owned(), TEMPLATE),
        ];
        // moto does not split the defaults of lists.
        let lists = [
            ("SubnetIds", ""),
            ("SubnetCidrs", "10.64.0.0/20,10.64.16.0/20"),
            ("AllowedImages", ""),
        ];
        let missing =
            lists.iter().filter(|(list, _)| parameters.iter().all(|(name, _)| name != list));
        for (n, (name, value)) in parameters.iter().chain(missing).enumerate() {
            named.push((format!("Parameters.member.{}.ParameterKey", n + 1), name));
            named.push((format!("Parameters.member.{}.ParameterValue", n + 1), value));
        }
        let named: Vec<(&str, &str)> =
            named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        cloudformation("CreateStack", &named);
        let described = cloudformation("DescribeStacks", &[("StackName", stack)]);
        let document = roxmltree::Document::parse(&described).unwrap();
        let text = |node: roxmltree::Node<'_, '_>, name: &str| {
            node.descendants()
                .find(|child| child.has_tag_name(name))
                .and_then(|child| child.text())
                .unwrap_or_else(|| panic!("no {name}: {described}"))
                .to_owned()
        };
        assert_eq!(text(document.root(), "StackStatus"), "CREATE_COMPLETE", "{described}");
        let outputs = document
            .descendants()
            .filter(|node| node.children().any(|child| child.has_tag_name("OutputKey")))
            .map(|output| (text(output, "OutputKey"), text(output, "OutputValue")));
        Self(outputs.collect())
    }

    fn get(&self, key: &str) -> &str {
        let (_, value) = self.0.iter().find(|(name, _)| name == key).expect(key);
        value
    }
}

/// The names that moto gave the resources of a stack, by those of the template.
fn resources(stack: &str) -> HashMap<String, String> {
    let listed = cloudformation("ListStackResources", &[("StackName", stack)]);
    let document = roxmltree::Document::parse(&listed).unwrap();
    let text = |of: roxmltree::Node<'_, '_>, name: &str| {
        let child = of.children().find(|child| child.has_tag_name(name))?;
        child.text().map(str::to_owned)
    };
    let members = document.descendants().filter(|node| node.has_tag_name("member"));
    members
        .filter_map(|of| Some((text(of, "LogicalResourceId")?, text(of, "PhysicalResourceId")?)))
        .collect()
}

/// Adds what moto's CloudFormation drops. The cluster's strategy, and all of a task definition but its
/// containers: scripts/infrastructure checks that the template has them. Also names of hosts, and the
/// subnets' route table.
fn add_what_moto_drops(stack: &str, family: &str) {
    let server = moto::server();
    let strategy = json!([{ "capacityProvider": "FARGATE", "weight": 1, "base": 0 }]);
    moto::ecs(
        server,
        "PutClusterCapacityProviders",
        &json!({ "cluster": stack, "capacityProviders": ["FARGATE"],
        "defaultCapacityProviderStrategy": strategy }),
    );
    let described =
        moto::ecs(server, "DescribeTaskDefinition", &json!({ "taskDefinition": family }));
    let mut containers = described["taskDefinition"]["containerDefinitions"].clone();
    assert_eq!(containers[0]["name"], "ci-coordinator", "{described}");
    // On Fargate the task's size is enough; moto requires reservations of containers.
    containers[0]["memoryReservation"] = json!(16);
    let resources = resources(stack);
    let role = |name: &str| format!("arn:aws:iam::123456789012:role/{}", resources[name]);
    moto::ecs(
        server,
        "RegisterTaskDefinition",
        &json!({ "family": family, "networkMode": "awsvpc", "cpu": "1024", "memory": "2048",
        "requiresCompatibilities": ["FARGATE"], "containerDefinitions": containers,
        "taskRoleArn": role("TaskRole"), "executionRoleArn": role("ExecutionRole") }),
    );
    let names = [("VpcId", &*resources["Vpc"]), ("EnableDnsHostnames.Value", "true")];
    ec2("ModifyVpcAttribute", &names, "return");
    for subnet in ["SubnetA", "SubnetB"] {
        let routes =
            [("RouteTableId", &*resources["RouteTable"]), ("SubnetId", &resources[subnet])];
        ec2("AssociateRouteTable", &routes, "associationId");
    }
}

/// What a new user does with a stack: its configuration, doctor, a job. scripts/try-template shows it.
#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn doctor_and_a_job_run_with_the_configuration_that_the_stack_shows() {
    let name = format!("ci-{:08x}", rand::random::<u32>());
    let outputs = Outputs::of(&name, &[("Name", &*name), ("JobImage", "public.ecr.aws/ci/job:1")]);
    let text = outputs.get("FargateToml");
    println!("The stack {name} is deployed. Its output FargateToml:\n\n{text}");
    let configuration: toml::Table = toml::from_str(text).unwrap();
    let fargate = &configuration["Fargate"];
    add_what_moto_drops(&name, fargate["TaskDefinition"].as_str().unwrap());
    let moto = Moto::with(name.clone(), fargate["Subnets"][0].as_str().unwrap().to_owned(), None);
    let port = moto.ssh_port;
    let cluster = Cluster::Moto(moto);
    let mut job = Job::on(&cluster);

    // The directories of this test, and the program that it tests.
    let text = text
        .replace("/var/lib/fargate", job.metadata.to_str().unwrap())
        .replace("/var/log/fargate", job.config.parent().unwrap().to_str().unwrap());
    assert!(!text.contains("/var/"), "{text}");
    fs::write(&job.config, &text).unwrap();
    let runner = outputs
        .get("ConfigToml")
        .replace("/usr/bin/fargate", job.binary.to_str().unwrap())
        .replace("/etc/gitlab-runner/fargate.toml", job.config.to_str().unwrap())
        .replace("RUNNER_TOKEN", "glrt-0123456789");
    fs::write(job.path("config.toml"), &runner).unwrap();

    // moto has neither IAM's simulator nor quotas. The manager is in the stack's security group.
    let front = Front::start(Some(moto::server()));
    front.behave(|front| {
        front.denied.extend(["SimulatePrincipalPolicy", "GetServiceQuota"].map(str::to_owned));
        front.place_manager("10.64.0.9", outputs.get("ManagerSecurityGroup"));
    });
    let direct = job.get("AWS_ENDPOINT_URL").unwrap().to_owned();
    job.set("AWS_ENDPOINT_URL", &front.endpoint);
    job.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &front.endpoint);
    job.unset("AWS_EC2_METADATA_DISABLED");
    let runner_config = job.path("config.toml");
    let (code, table, stderr) = doctor(&job, &["--runner-config", runner_config.to_str().unwrap()]);
    println!("fargate doctor: exit code {code:?}\n\n{table}{stderr}");
    assert_eq!(code, Some(3), "no failure, and what moto lacks is unknown");
    for unknown in ["permissions", "quotas"] {
        assert!(table.contains(&format!("unknown  {unknown}")), "{unknown}");
    }
    assert!(!table.contains("warning "), "nothing to change");

    // Where moto's containers listen.
    fs::write(&job.config, text.replace("\nPort = 22\n", &format!("\nPort = {port}\n"))).unwrap();
    job.set("AWS_ENDPOINT_URL", &direct);
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    let run = job.run("build_script", "echo by the stack");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "by the stack\n", "{run:#?}");
    println!("A job:\n\n{}{}", prepared.stderr, String::from_utf8_lossy(&run.stdout));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    println!("Its task is stopped, and nothing is left.");
}

/// The driver reads what each variant of the stack shows, without a warning, and gitlab-runner's
/// configuration calls it.
#[test]
#[ignore = "needs moto: scripts/test installs it and runs this"]
fn the_driver_reads_the_configuration_of_each_variant() {
    let secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:registry-AbCdEf";
    let images = [
        ("AllowedImages", "node:*,registry.example.com/ci/*"),
        ("RegistryHost", "registry.example.com"),
        ("RegistrySecretArn", secret),
        ("Mirror", "docker-hub"),
    ];
    for (transport, more) in [("ssh", &images[..]), ("ecs-exec", &images[..1]), ("ecs-exec", &[])] {
        let name = format!("ci-{:08x}", rand::random::<u32>());
        let mut parameters = vec![("Name", name.as_str()), ("JobImage", "ci-job:1")];
        parameters.push(("Transport", transport));
        parameters.extend_from_slice(more);
        let outputs = Outputs::of(&name, &parameters);

        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let text = outputs
            .get("FargateToml")
            .replace("/var/lib/fargate", path("metadata").to_str().unwrap())
            .replace("/var/log/fargate", place.path().to_str().unwrap());
        fs::write(path("fargate.toml"), &text).unwrap();
        fs::create_dir(path("metadata")).unwrap();
        let read = Command::new(env!("CARGO_BIN_EXE_fargate"))
            .args(["--config", path("fargate.toml").to_str().unwrap(), "status"])
            .output()
            .unwrap();
        assert!(read.status.success() && read.stderr.is_empty(), "{read:?}\n{text}");

        let runner: toml::Table = toml::from_str(outputs.get("ConfigToml")).unwrap();
        let runner = runner["runners"][0].as_table().unwrap();
        assert_eq!(runner["executor"].as_str(), Some("custom"));
        for stage in ["config", "prepare", "run", "cleanup"] {
            let custom = &runner["custom"];
            assert_eq!(custom[&format!("{stage}_exec")].as_str(), Some("/usr/bin/fargate"));
            let arguments: Vec<&str> = custom[&format!("{stage}_args")]
                .as_array()
                .unwrap()
                .iter()
                .map(|argument| argument.as_str().unwrap())
                .collect();
            assert_eq!(arguments, ["--config", "/etc/gitlab-runner/fargate.toml", "custom", stage]);
        }
    }
}
