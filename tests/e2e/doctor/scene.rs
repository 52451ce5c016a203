//! A manager and an account that are ready for a first job, to plant mistakes in.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::front::Front;
use crate::{http, moto};

/// The manager's address and security group, by the instance's metadata.
const MANAGER: &str = "10.7.0.9";
const MANAGER_GROUP: &str = "sg-0manager0";

const TRUST: &str = include_str!("../../../deploy/iam/task-trust.json");

/// The account and the manager.
pub struct Scene {
    place: TempDir,
    pub front: Front,
    /// `fargate.toml`.
    pub config: String,
    /// gitlab-runner's `config.toml`; `None`: there is none.
    pub runner: Option<String>,
    /// The request that registers the task definition.
    pub definition: Value,
    pub name: String,
    pub vpc: String,
    pub subnet: String,
    pub group: String,
    pub table: String,
    pub gateway: String,
    pub metadata: PathBuf,
    /// Variables of the manager.
    pub environment: Vec<(String, String)>,
}

/// What doctor has printed.
#[derive(Debug)]
pub struct Examined {
    pub code: Option<i32>,
    pub outcomes: Vec<Value>,
    pub stderr: String,
}

impl Examined {
    /// Returns the names of the problems with this status.
    pub fn problems(&self, status: &str) -> Vec<&str> {
        let of_status = self.outcomes.iter().filter(|outcome| outcome["status"] == status);
        of_status.filter_map(|outcome| outcome["problem"].as_str()).collect()
    }
}

/// Calls moto by the query protocol, and returns the text of the first element of this name.
pub fn query(
    service: &str,
    version: &str,
    action: &str,
    parameters: &[(&str, &str)],
    element: &str,
) -> String {
    let mut body = format!("Action={action}&Version={version}");
    for (name, value) in parameters {
        let value =
            percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
        body.push_str(&format!("&{name}={value}"));
    }
    let headers = [
        moto::authorization(service),
        "content-type: application/x-www-form-urlencoded".to_owned(),
    ];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let answer = http::request(moto::server(), "POST", "/", &headers, body.as_bytes());
    let text = String::from_utf8(answer.body).unwrap();
    assert!(!text.contains("<Error>"), "{action}: {text}");
    let found = text.split(&format!("<{element}>")).nth(1).and_then(|rest| rest.split('<').next());
    found.unwrap_or_default().to_owned()
}

pub fn ec2(action: &str, parameters: &[(&str, &str)], element: &str) -> String {
    query("ec2", "2016-11-15", action, parameters, element)
}

fn iam(action: &str, parameters: &[(&str, &str)]) -> String {
    query("iam", "2010-05-08", action, parameters, "Arn")
}

/// Calls a JSON service of moto.
fn json_call(service: &str, target: &str, body: &Value) {
    let headers = [
        moto::authorization(service),
        format!("x-amz-target: {target}"),
        "content-type: application/x-amz-json-1.1".to_owned(),
    ];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let answer = http::request(moto::server(), "POST", "/", &headers, body.to_string().as_bytes());
    assert!(answer.status() < 300, "{target}: {}", String::from_utf8_lossy(&answer.body));
}

impl Scene {
    /// Makes everything that a first job needs.
    pub fn new() -> Self {
        let place = tempfile::Builder::new().prefix("fargate-doctor-").tempdir().unwrap();
        let front = Front::start(Some(moto::server()));
        let name = format!("doctor-{:08x}", rand::random::<u32>());
        let vpc = ec2("CreateVpc", &[("CidrBlock", "10.7.0.0/16")], "vpcId");
        let subnet =
            ec2("CreateSubnet", &[("VpcId", &vpc), ("CidrBlock", "10.7.1.0/24")], "subnetId");
        let gateway = ec2("CreateInternetGateway", &[], "internetGatewayId");
        ec2("AttachInternetGateway", &[("InternetGatewayId", &gateway), ("VpcId", &vpc)], "x");
        let table = ec2("CreateRouteTable", &[("VpcId", &vpc)], "routeTableId");
        ec2("AssociateRouteTable", &[("RouteTableId", &table), ("SubnetId", &subnet)], "x");
        let address = ec2("AllocateAddress", &[("Domain", "vpc")], "allocationId");
        let nat = ec2(
            "CreateNatGateway",
            &[("SubnetId", &subnet), ("AllocationId", &address)],
            "natGatewayId",
        );
        let route = [
            ("RouteTableId", table.as_str()),
            ("DestinationCidrBlock", "0.0.0.0/0"),
            ("NatGatewayId", &nat),
        ];
        ec2("CreateRoute", &route, "x");
        let group = ec2(
            "CreateSecurityGroup",
            &[("GroupName", &name), ("GroupDescription", "ci"), ("VpcId", &vpc)],
            "groupId",
        );
        ec2("AuthorizeSecurityGroupIngress", &rule(&group, "22", "10.7.0.0/24"), "x");
        for role in ["task", "execution"] {
            let role = format!("{name}-{role}");
            iam("CreateRole", &[("RoleName", &role), ("AssumeRolePolicyDocument", TRUST)]);
        }
        json_call(
            "logs",
            "Logs_20140328.CreateLogGroup",
            &json!({ "logGroupName": format!("/ecs/{name}") }),
        );
        json_call(
            "ecr",
            "AmazonEC2ContainerRegistry_V20150921.CreateRepository",
            &json!({ "repositoryName": name }),
        );
        let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": 7, "digest": format!("sha256:{:064}", 1) },
            "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": 90_000_000, "digest": format!("sha256:{:064}", 2) }] });
        json_call(
            "ecr",
            "AmazonEC2ContainerRegistry_V20150921.PutImage",
            &json!({ "repositoryName": name, "imageTag": "latest", "imageManifest": manifest.to_string() }),
        );
        moto::ecs(
            moto::server(),
            "CreateCluster",
            &json!({ "clusterName": name, "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
                "defaultCapacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1, "base": 0 }] }),
        );
        let mut definition: Value =
            serde_json::from_str(include_str!("../../../deploy/task-definition-ssh.json")).unwrap();
        definition["family"] = json!(name);
        for role in ["task", "execution"] {
            definition[format!("{role}RoleArn")] =
                json!(format!("arn:aws:iam::123456789012:role/{name}-{role}"));
        }
        let container = &mut definition["containerDefinitions"][0];
        container["image"] = json!(format!("123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}"));
        container["logConfiguration"]["options"]["awslogs-group"] = json!(format!("/ecs/{name}"));
        container["logConfiguration"]["options"]["awslogs-region"] = json!("us-east-1");
        // On Fargate the task's size is enough; moto requires reservations of containers.
        container["memory"] = json!(512);
        let metadata = place.path().join("metadata");
        fs::create_dir(&metadata).unwrap();
        fs::set_permissions(&metadata, fs::Permissions::from_mode(0o700)).unwrap();
        let config = format!(
            "Transport = \"ssh\"\n[Fargate]\nCluster = \"{name}\"\nRegion = \"us-east-1\"\nSubnets = [\"{subnet}\"]\nSecurityGroups = [\"{group}\"]\n\
             TaskDefinition = \"{name}\"\nAllowedTaskDefinitions = []\n\n[TaskMetadata]\nDirectory = {metadata:?}\nManager = \"{name}\"\n"
        );
        let file = place.path().join("fargate.toml");
        let runner = runner_config(&file.display().to_string());
        front.behave(|front| front.place_manager(MANAGER, MANAGER_GROUP));
        let environment = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("HOME", place.path().display().to_string()),
            ("AWS_ENDPOINT_URL", front.endpoint.clone()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", front.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ];
        let environment =
            environment.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        Self {
            place,
            front,
            config,
            runner: Some(runner),
            definition,
            name,
            vpc,
            subnet,
            group,
            table,
            gateway,
            metadata,
            environment,
        }
    }

    /// Uses ECS Exec: nothing listens in the container.
    pub fn by_ecs_exec() -> Self {
        let mut scene = Self::new();
        scene.config = scene.config.replace("\"ssh\"", "\"ecs-exec\"");
        let container = &mut scene.definition["containerDefinitions"][0];
        container.as_object_mut().unwrap().remove("logConfiguration");
        container["entryPoint"] = json!(["sleep"]);
        container["command"] = json!(["infinity"]);
        scene
    }

    /// The container that runs scripts, in the request.
    pub fn container(&mut self) -> &mut Value {
        &mut self.definition["containerDefinitions"][0]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Replaces a text of `fargate.toml`, which must have it.
    pub fn edit(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{from}: {}", self.config);
        self.config = self.config.replace(from, to);
    }

    /// Replaces a text of gitlab-runner's `config.toml`, which must have it.
    pub fn edit_runner(&mut self, from: &str, to: &str) {
        let runner = self.runner.as_mut().unwrap();
        assert!(runner.contains(from), "{from}: {runner}");
        *runner = runner.replace(from, to);
    }

    /// Sets a value of ECS's, or another JSON service's, answer.
    pub fn set(&self, action: &'static str, pointer: &str, value: Value) {
        self.front.behave(|front| front.set.push((action, pointer.to_owned(), value)));
    }

    /// Replaces the route to NAT.
    pub fn route_to(&self, target: &str, id: &str) {
        let route = [("RouteTableId", self.table.as_str()), ("DestinationCidrBlock", "0.0.0.0/0")];
        ec2("DeleteRoute", &route, "x");
        if !target.is_empty() {
            ec2("CreateRoute", &[&route[..], &[(target, id)]].concat(), "x");
        }
    }

    /// Runs doctor with these arguments, without registering anything.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let file = self.path("fargate.toml");
        fs::write(&file, &self.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fargate"));
        command.env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.arg("--config").arg(&file).arg("doctor").args(arguments);
        if let Some(text) = &self.runner {
            let runner = self.path("config.toml");
            fs::write(&runner, text).unwrap();
            command.arg("--runner-config").arg(&runner);
        }
        command.output().unwrap()
    }

    /// Registers the task definition, and examines the whole.
    pub fn examine(&self) -> Examined {
        let registered = moto::ecs(moto::server(), "RegisterTaskDefinition", &self.definition);
        assert!(registered["taskDefinition"].is_object(), "{registered}");
        self.examine_only()
    }

    /// Examines the whole.
    pub fn examine_only(&self) -> Examined {
        let output = self.run(&["--json"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{stderr}", String::from_utf8_lossy(&output.stdout)));
        let outcomes = document["outcomes"].as_array().unwrap().clone();
        Examined { code: output.status.code(), outcomes, stderr }
    }
}

/// The rule of a security group that admits a block to a TCP port.
pub fn rule<'a>(group: &'a str, port: &'a str, block: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("GroupId", group),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", port),
        ("IpPermissions.1.ToPort", port),
        ("IpPermissions.1.IpRanges.1.CidrIp", block),
    ]
}

/// gitlab-runner's `config.toml`, as docs/getting-started.md has it.
fn runner_config(file: &str) -> String {
    let program = env!("CARGO_BIN_EXE_fargate");
    let stages: String = ["config", "prepare", "run", "cleanup"]
        .map(|stage| {
            format!("{stage}_exec = \"{program}\"\n{stage}_args = [\"--config\", \"{file}\", \"custom\", \"{stage}\"]\n")
        })
        .concat();
    format!(
        "concurrent = 10\n[[runners]]\nname = \"ci\"\nurl = \"https://gitlab.example\"\ntoken = \"glrt-t\"\nexecutor = \"custom\"\n\
         builds_dir = \"/builds\"\ncache_dir = \"/cache\"\n[runners.custom]\n{stages}"
    )
}
