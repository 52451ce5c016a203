//! deploy/cloudformation on moto: what the stack's outputs say works.

use std::{fs, process::Command};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::{
    cluster::Cluster,
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

/// Adds what moto's CloudFormation drops: the cluster's strategy, and all of a task definition but its
/// containers. scripts/infrastructure checks that the template has both.
fn add_what_moto_drops(moto: &Moto, family: &str) {
    let strategy = json!([{ "capacityProvider": "FARGATE", "weight": 1, "base": 0 }]);
    moto::ecs(
        &moto.endpoint,
        "PutClusterCapacityProviders",
        &json!({ "cluster": moto.cluster, "capacityProviders": ["FARGATE"],
        "defaultCapacityProviderStrategy": strategy }),
    );
    let described =
        moto::ecs(&moto.endpoint, "DescribeTaskDefinition", &json!({ "taskDefinition": family }));
    let containers = &described["taskDefinition"]["containerDefinitions"];
    assert_eq!(containers[0]["name"], "ci-coordinator", "{described}");
    moto::ecs(
        &moto.endpoint,
        "RegisterTaskDefinition",
        &json!({ "family": family, "networkMode": "awsvpc", "cpu": "1024", "memory": "2048",
        "requiresCompatibilities": ["FARGATE"], "containerDefinitions": containers }),
    );
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_job_runs_with_the_configuration_that_the_stack_shows() {
    let name = format!("ci-{:08x}", rand::random::<u32>());
    // moto launches no task in a VPC of CloudFormation: it drops EnableDnsHostnames.
    let (subnet, vpc) = moto::default_subnet();
    let parameters =
        [("Name", &*name), ("JobImage", "ci-job:1"), ("VpcId", &vpc), ("SubnetIds", &subnet)];
    let outputs = Outputs::of(&name, &parameters);
    let text = outputs.get("FargateToml");
    let configuration: toml::Table = toml::from_str(text).unwrap();
    let family = configuration["Fargate"]["TaskDefinition"].as_str().unwrap();
    let moto = Moto::with(name.clone(), subnet.clone(), None);
    add_what_moto_drops(&moto, family);
    // Where moto's containers listen, and a directory of this test.
    let port = moto.ssh_port;
    let cluster = Cluster::Moto(moto);
    let job = Job::on(&cluster);
    let text = text
        .replace("\nPort = 22\n", &format!("\nPort = {port}\n"))
        .replace("/var/lib/fargate", job.metadata.to_str().unwrap())
        .replace("/var/log/fargate", job.config.parent().unwrap().to_str().unwrap());
    assert!(!text.contains("/var/"), "{text}");
    fs::write(&job.config, text).unwrap();
    job.prepare();
    let run = job.run("build_script", "echo by the stack");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "by the stack\n", "{run:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
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
