//! The subnets' ways to the services that tasks need: the internet, or VPC endpoints.

use aws_sdk_ecs::types::{LogDriver, TaskDefinition};
use states::foreign_text::clipped;

use super::{Check, Examination, Problem};
use crate::control::{EcrImage, Endpoint, Exit, RouteTable, Subnet};

/// What tasks need to reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Needs {
    /// AWS's services, by the names of their endpoints.
    services: Vec<&'static str>,
    /// An image that is not in ECR.
    other_registry: Option<String>,
}

impl Examination<'_> {
    /// Checks the routes.
    pub(super) async fn check_routes(&mut self) {
        const CHECK: Check = Check::Routes;
        let Some(vpc) = self.vpc().map(str::to_owned) else {
            return self.report.unknown(CHECK, "The subnets are not known.");
        };
        match self.control.has_dns(&vpc).await {
            Ok(true) => {}
            Ok(false) => self.report.found(CHECK, Problem::NoDns, [vpc.clone()]),
            Err(error) => self.report.refused(CHECK, &error),
        }
        let tables = match self.control.route_tables(&vpc).await {
            Ok(tables) => tables,
            Err(error) => return self.report.refused(CHECK, &error),
        };
        let mut endpoints = None;
        let mut ways = Vec::new();
        for subnet in self.subnets.clone() {
            let table = RouteTable::of(&subnet, &tables);
            let exit = table.map_or(Exit::Nowhere, RouteTable::exit);
            match exit {
                Exit::Blackhole(route) => {
                    let table = table.map(|table| table.id.clone()).unwrap_or_default();
                    let facts = [subnet.id, route.target.clone(), table];
                    self.report.found(CHECK, Problem::Blackhole, facts);
                    continue;
                }
                Exit::Other(route) => {
                    ways.push(format!("{} by {}", subnet.id, route.target));
                    continue;
                }
                Exit::Internet(route) if self.config.fargate.enable_public_ip => {
                    ways.push(format!("{} by {}", subnet.id, route.target));
                    continue;
                }
                Exit::Internet(_) | Exit::Nowhere => {}
            }
            // Only now, as it is one more permission.
            if endpoints.is_none() {
                match self.control.endpoints(&vpc).await {
                    Ok(found) => endpoints = Some(found),
                    Err(error) => return self.report.refused(CHECK, &error),
                }
            }
            let endpoints = endpoints.as_deref().unwrap_or_default();
            self.check_endpoints(&subnet, table, exit, endpoints);
            ways.push(format!("{} by VPC endpoints", subnet.id));
        }
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, format!("{}.", ways.join(", ")));
        }
    }

    /// Checks the endpoints that replace a way to the internet.
    fn check_endpoints(
        &mut self,
        subnet: &Subnet,
        table: Option<&RouteTable>,
        exit: Exit<'_>,
        endpoints: &[Endpoint],
    ) {
        const CHECK: Check = Check::Routes;
        let is_exec = self.config.transport.needs_execute_command;
        let needs = self.definition.as_ref().map(|d| Needs::of(d, is_exec)).unwrap_or_default();
        if let (Some(image), Exit::Nowhere) = (&needs.other_registry, exit) {
            let facts = [subnet.id.clone(), image.clone()];
            return self.report.found(CHECK, Problem::NoRouteToRegistry, facts);
        }
        let table = table.map_or("", |table| table.id.as_str());
        let mut missing: Vec<&str> = Vec::new();
        for service in &needs.services {
            match endpoint_for(service, table, endpoints) {
                Some(endpoint) if !endpoint.is_gateway && !endpoint.has_private_dns => {
                    let facts = [(*service).to_owned(), subnet.vpc.clone()];
                    self.report.found(CHECK, Problem::NoPrivateDns, facts);
                }
                Some(_) => {}
                None => missing.push(service),
            }
        }
        let missing = missing.join(", ");
        match exit {
            Exit::Internet(route) if !missing.is_empty() || needs.other_registry.is_some() => {
                let missing = match needs.other_registry {
                    Some(image) => format!("the registry of {image}"),
                    None => missing,
                };
                let facts = [subnet.id.clone(), route.target.clone(), missing];
                self.report.found(CHECK, Problem::PublicWithoutAddress, facts);
            }
            _ if !missing.is_empty() => {
                let facts = [subnet.id.clone(), missing];
                self.report.found(CHECK, Problem::NoRoute, facts);
            }
            _ => {}
        }
    }
}

impl Needs {
    /// What the tasks of a definition need (Amazon ECR user guide, "Interface VPC endpoints"; Amazon
    /// ECS developer guide, "ECS Exec").
    fn of(definition: &TaskDefinition, is_exec: bool) -> Self {
        let mut needs = Self::default();
        let mut add = |service| {
            if !needs.services.contains(&service) {
                needs.services.push(service);
            }
        };
        let mut other_registry = None;
        for container in definition.container_definitions() {
            let image = container.image().unwrap_or_default();
            if EcrImage::parse(image).is_some() {
                // ECR keeps the layers in S3.
                ["ecr.api", "ecr.dkr", "s3"].into_iter().for_each(&mut add);
            } else {
                other_registry = Some(clipped(image));
            }
            let logs = container.log_configuration();
            if logs.is_some_and(|logs| *logs.log_driver() == LogDriver::Awslogs) {
                add("logs");
            }
            let is_parameter = |from: &str| from.contains(":ssm:") || !from.starts_with("arn:");
            for secret in container.secrets() {
                let from = secret.value_from();
                add(if is_parameter(from) { "ssm" } else { "secretsmanager" });
            }
            if container.repository_credentials().is_some() {
                add("secretsmanager");
            }
        }
        if is_exec {
            add("ssmmessages");
        }
        needs.other_registry = other_registry;
        needs
    }
}

/// The endpoint of a service that a subnet with this route table can use.
fn endpoint_for<'a>(service: &str, table: &str, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
    endpoints.iter().find(|endpoint| {
        let is_for_table = || endpoint.route_tables.iter().any(|id| id == table);
        endpoint.service == service
            && endpoint.is_available
            && (!endpoint.is_gateway || is_for_table())
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::{ContainerDefinition, Secret};

    use super::*;

    #[test]
    fn a_gateway_endpoint_counts_for_its_route_tables_only() {
        let gateway = Endpoint {
            service: "s3".into(),
            is_gateway: true,
            is_available: true,
            route_tables: vec!["rtb-1".into()],
            ..Endpoint::default()
        };
        assert!(endpoint_for("s3", "rtb-1", std::slice::from_ref(&gateway)).is_some());
        assert!(endpoint_for("s3", "rtb-2", std::slice::from_ref(&gateway)).is_none());
        let interface = Endpoint { is_gateway: false, ..gateway };
        assert!(endpoint_for("s3", "rtb-2", std::slice::from_ref(&interface)).is_some());
        let pending = Endpoint { is_available: false, ..interface };
        assert!(endpoint_for("s3", "rtb-2", &[pending]).is_none());
    }

    #[test]
    fn tasks_need_what_their_containers_name() {
        let secret = |from: &str| Secret::builder().name("X").value_from(from).build().unwrap();
        let container = ContainerDefinition::builder()
            .image("111122223333.dkr.ecr.eu-central-1.amazonaws.com/job")
            .secrets(secret("arn:aws:secretsmanager:eu-central-1:111122223333:secret:x"))
            .secrets(secret("/parameter/by/name"))
            .build();
        let of = |container: &ContainerDefinition, is_exec| {
            let definition = TaskDefinition::builder().container_definitions(container.clone());
            Needs::of(&definition.build(), is_exec)
        };
        let services = ["ecr.api", "ecr.dkr", "s3", "secretsmanager", "ssm"];
        assert_eq!(of(&container, false).services, services);
        assert_eq!(of(&container, true).services.last(), Some(&"ssmmessages"));
        assert_eq!(of(&container, true).other_registry, None);
        let elsewhere = ContainerDefinition::builder().image("debian:12").build();
        assert_eq!(of(&elsewhere, false).other_registry.as_deref(), Some("debian:12"));
    }
}
