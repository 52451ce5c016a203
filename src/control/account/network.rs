//! Subnets, routes, endpoints and security groups, as EC2 describes them.

use roxmltree::Node;
use states::{ControlError, foreign_text::clipped};

use crate::control::{
    EcsControl,
    call::{self, find_text},
    ec2::EC2,
};

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Subnet {
    /// Its id.
    pub(crate) id: String,
    /// Its VPC's id.
    pub(crate) vpc: String,
    /// Its IPv4 addresses, in CIDR notation; empty if it has IPv6 alone.
    pub(crate) cidr: String,
    /// Its availability zone.
    pub(crate) zone: String,
    /// IPv4 addresses that are not in use.
    pub(crate) free_addresses: u64,
    /// Its tag `Name`; empty without one.
    pub(crate) name: String,
}

/// A route table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RouteTable {
    /// Its id.
    pub(crate) id: String,
    /// Whether it is for all subnets of the VPC that have none of their own.
    pub(crate) is_main: bool,
    /// The subnets that it is for.
    pub(crate) subnets: Vec<String>,
    /// Its routes.
    pub(crate) routes: Vec<Route>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Route {
    /// Where to: a CIDR block or a prefix list.
    pub(crate) destination: String,
    /// The gateway's id: its prefix says of which kind.
    pub(crate) target: String,
    /// Whether the target exists no more.
    pub(crate) is_blackhole: bool,
}

/// Where a subnet's default route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit<'a> {
    /// An internet gateway: for tasks with public addresses only.
    Internet(&'a Route),
    /// A NAT gateway, a transit gateway, an instance, …: what is behind it is not known here.
    Other(&'a Route),
    /// Something that exists no more.
    Blackhole(&'a Route),
    /// There is none.
    Nowhere,
}

impl RouteTable {
    /// Returns the table of a subnet: its own, or else the VPC's main one.
    pub(crate) fn of<'a>(subnet: &Subnet, tables: &'a [Self]) -> Option<&'a Self> {
        let own = tables.iter().find(|table| table.subnets.contains(&subnet.id));
        own.or_else(|| tables.iter().find(|table| table.is_main))
    }

    /// Returns where the default route leads.
    pub(crate) fn exit(&self) -> Exit<'_> {
        let is_default =
            |route: &&Route| matches!(route.destination.as_str(), "0.0.0.0/0" | "::/0");
        let usable = self.routes.iter().filter(is_default).find(|route| !route.is_blackhole);
        match (usable, self.routes.iter().find(is_default)) {
            (Some(route), _) if route.target.starts_with("igw-") => Exit::Internet(route),
            (Some(route), _) => Exit::Other(route),
            (None, Some(route)) => Exit::Blackhole(route),
            (None, None) => Exit::Nowhere,
        }
    }
}

/// A VPC endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Endpoint {
    /// The service's name without region: `ecr.api`, `s3`.
    pub(crate) service: String,
    /// Whether it is a gateway, which route tables name.
    pub(crate) is_gateway: bool,
    /// Whether it can be used.
    pub(crate) is_available: bool,
    /// Whether the service's own host name leads to it.
    pub(crate) has_private_dns: bool,
    /// The route tables of a gateway.
    pub(crate) route_tables: Vec<String>,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SecurityGroup {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its VPC's id.
    pub(crate) vpc: String,
    /// What may come in.
    pub(crate) ingress: Vec<Permission>,
    /// What may go out.
    pub(crate) egress: Vec<Permission>,
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Permission {
    /// Protocol: a name, a number, or `-1` for all.
    pub(crate) protocol: String,
    /// First and last port; `None`: all.
    pub(crate) ports: Option<(i32, i32)>,
    /// Addresses, in CIDR notation.
    pub(crate) ranges: Vec<String>,
    /// Ids of other security groups.
    pub(crate) groups: Vec<String>,
    /// Whether it also names prefix lists, whose addresses are not known here.
    pub(crate) has_prefix_lists: bool,
}

impl EcsControl {
    /// Describes these subnets; none: all of the region.
    ///
    /// # Errors
    /// When one does not exist, or EC2 refuses.
    pub(crate) async fn subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, ControlError> {
        self.ec2("DescribeSubnets", &numbered("SubnetId", ids), "subnetSet", subnet).await
    }

    /// Describes the route tables of a VPC.
    ///
    /// # Errors
    /// When EC2 refuses.
    pub(crate) async fn route_tables(&self, vpc: &str) -> Result<Vec<RouteTable>, ControlError> {
        let filter = filter(&[("vpc-id", vpc)]);
        self.ec2("DescribeRouteTables", &filter, "routeTableSet", route_table).await
    }

    /// Describes the endpoints of a VPC.
    ///
    /// # Errors
    /// When EC2 refuses.
    pub(crate) async fn endpoints(&self, vpc: &str) -> Result<Vec<Endpoint>, ControlError> {
        let filter = filter(&[("vpc-id", vpc)]);
        self.ec2("DescribeVpcEndpoints", &filter, "vpcEndpointSet", endpoint).await
    }

    /// Describes these security groups.
    ///
    /// # Errors
    /// When one does not exist, or EC2 refuses.
    pub(crate) async fn security_groups(
        &self,
        ids: &[String],
    ) -> Result<Vec<SecurityGroup>, ControlError> {
        let ids = numbered("GroupId", ids);
        self.ec2("DescribeSecurityGroups", &ids, "securityGroupInfo", security_group).await
    }

    /// Describes the security groups of a VPC: those of this name, or all.
    ///
    /// # Errors
    /// When EC2 refuses.
    pub(crate) async fn security_groups_of(
        &self,
        vpc: &str,
        name: Option<&str>,
    ) -> Result<Vec<SecurityGroup>, ControlError> {
        let mut filters = vec![("vpc-id", vpc)];
        filters.extend(name.map(|name| ("group-name", name)));
        let filter = filter(&filters);
        self.ec2("DescribeSecurityGroups", &filter, "securityGroupInfo", security_group).await
    }

    /// Whether Amazon's DNS server answers in a VPC.
    ///
    /// # Errors
    /// When EC2 refuses.
    pub(crate) async fn has_dns(&self, vpc: &str) -> Result<bool, ControlError> {
        const OPERATION: &str = "DescribeVpcAttribute";
        let parameters =
            [("VpcId", vpc), ("Attribute", "enableDnsSupport")].map(|(k, v)| pair(k, v));
        let clients = self.clients().await;
        let config = &clients.shared;
        let answer = call::query(config, EC2, OPERATION, &parameters).await?;
        let document = call::read_xml(OPERATION, answer.status, answer.text(OPERATION)?)?;
        Ok(find_text(document.root(), "value").is_none_or(|value| value != "false"))
    }

    /// Calls EC2, and reads each element of the answer's list.
    async fn ec2<T>(
        &self,
        action: &'static str,
        parameters: &[(String, String)],
        list: &str,
        read: fn(Node<'_, '_>) -> T,
    ) -> Result<Vec<T>, ControlError> {
        let answer = call::query(&self.clients().await.shared, EC2, action, parameters).await?;
        let document = call::read_xml(action, answer.status, answer.text(action)?)?;
        Ok(items(document.root_element(), list).map(read).collect())
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn numbered(name: &str, values: &[String]) -> Vec<(String, String)> {
    values.iter().zip(1..).map(|(value, n)| pair(&format!("{name}.{n}"), value)).collect()
}

fn filter(filters: &[(&str, &str)]) -> Vec<(String, String)> {
    let named = filters.iter().zip(1..).flat_map(|((name, value), n)| {
        [pair(&format!("Filter.{n}.Name"), name), pair(&format!("Filter.{n}.Value.1"), value)]
    });
    named.collect()
}

/// The elements of a list: EC2 calls each `item`.
fn items<'a, 'i>(node: Node<'a, 'i>, list: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    let list = node.children().find(|child| is_named(*child, list));
    list.into_iter().flat_map(|list| list.children()).filter(|child| is_named(*child, "item"))
}

fn is_named(node: Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name
}

/// The text of a child; empty without one.
fn text(node: Node<'_, '_>, name: &str) -> String {
    let child = node.children().find(|child| is_named(*child, name));
    clipped(child.and_then(|child| child.text()).unwrap_or_default())
}

fn texts(node: Node<'_, '_>, list: &str, name: &str) -> Vec<String> {
    items(node, list).map(|item| text(item, name)).filter(|text| !text.is_empty()).collect()
}

fn name_tag(node: Node<'_, '_>) -> String {
    let name = items(node, "tagSet").find(|tag| text(*tag, "key") == "Name");
    name.map(|tag| text(tag, "value")).unwrap_or_default()
}

fn subnet(node: Node<'_, '_>) -> Subnet {
    Subnet {
        id: text(node, "subnetId"),
        vpc: text(node, "vpcId"),
        cidr: text(node, "cidrBlock"),
        zone: text(node, "availabilityZone"),
        free_addresses: text(node, "availableIpAddressCount").parse().unwrap_or_default(),
        name: name_tag(node),
    }
}

fn route_table(node: Node<'_, '_>) -> RouteTable {
    let is_main = items(node, "associationSet").any(|item| text(item, "main") == "true");
    RouteTable {
        id: text(node, "routeTableId"),
        is_main,
        subnets: texts(node, "associationSet", "subnetId"),
        routes: items(node, "routeSet").map(route).collect(),
    }
}

fn route(node: Node<'_, '_>) -> Route {
    let first = |names: &[&str]| {
        names.iter().map(|name| text(node, name)).find(|text| !text.is_empty()).unwrap_or_default()
    };
    Route {
        destination: first(&[
            "destinationCidrBlock",
            "destinationIpv6CidrBlock",
            "destinationPrefixListId",
        ]),
        target: first(&[
            "natGatewayId",
            "transitGatewayId",
            "egressOnlyInternetGatewayId",
            "vpcPeeringConnectionId",
            "instanceId",
            "networkInterfaceId",
            "carrierGatewayId",
            "localGatewayId",
            "coreNetworkArn",
            "gatewayId",
        ]),
        is_blackhole: text(node, "state") == "blackhole",
    }
}

fn endpoint(node: Node<'_, '_>) -> Endpoint {
    let full = text(node, "serviceName");
    // com.amazonaws.eu-central-1.ecr.api, and in China cn.com.amazonaws.cn-north-1.ecr.api
    let service = full.split_once("amazonaws.").map_or(full.as_str(), |(_, rest)| rest);
    let service = service.split_once('.').map_or(service, |(_, service)| service).to_owned();
    let is_gateway = text(node, "vpcEndpointType").eq_ignore_ascii_case("gateway");
    let tables = node.children().find(|child| is_named(*child, "routeTableIdSet"));
    let tables = tables.into_iter().flat_map(|tables| tables.children());
    Endpoint {
        service,
        is_gateway,
        is_available: text(node, "state").eq_ignore_ascii_case("available"),
        has_private_dns: text(node, "privateDnsEnabled") == "true",
        route_tables: tables.filter_map(|table| table.text()).map(clipped).collect(),
    }
}

fn security_group(node: Node<'_, '_>) -> SecurityGroup {
    SecurityGroup {
        id: text(node, "groupId"),
        name: text(node, "groupName"),
        vpc: text(node, "vpcId"),
        ingress: items(node, "ipPermissions").map(permission).collect(),
        egress: items(node, "ipPermissionsEgress").map(permission).collect(),
    }
}

fn permission(node: Node<'_, '_>) -> Permission {
    let port = |name| text(node, name).parse().ok();
    let mut ranges = texts(node, "ipRanges", "cidrIp");
    ranges.extend(texts(node, "ipv6Ranges", "cidrIpv6"));
    Permission {
        protocol: text(node, "ipProtocol"),
        ports: port("fromPort").zip(port("toPort")),
        ranges,
        groups: texts(node, "groups", "groupId"),
        has_prefix_lists: items(node, "prefixListIds").next().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn first<T>(text: &str, list: &str, read: fn(Node<'_, '_>) -> T) -> T {
        let document = Document::parse(text).unwrap();
        read(items(document.root_element(), list).next().unwrap())
    }

    #[test]
    fn a_group_s_rules_are_read_without_mixing_both_directions() {
        let text = r#"<R xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><securityGroupInfo><item>
            <groupId>sg-1</groupId><groupName>ci</groupName><vpcId>vpc-1</vpcId>
            <ipPermissions><item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort>
              <groups><item><groupId>sg-2</groupId></item></groups>
              <ipRanges><item><cidrIp>10.0.0.0/16</cidrIp></item></ipRanges>
              <ipv6Ranges><item><cidrIpv6>fd00::/8</cidrIpv6></item></ipv6Ranges>
              <prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds></item></ipPermissions>
            <ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item></ipPermissionsEgress>
            </item></securityGroupInfo></R>"#;
        let group = first(text, "securityGroupInfo", security_group);
        let admitted = Permission {
            protocol: "tcp".to_owned(),
            ports: Some((22, 22)),
            ranges: vec!["10.0.0.0/16".to_owned(), "fd00::/8".to_owned()],
            groups: vec!["sg-2".to_owned()],
            has_prefix_lists: true,
        };
        assert_eq!((group.id.as_str(), group.ingress), ("sg-1", vec![admitted]));
        assert_eq!((group.egress.len(), group.egress[0].ports), (1, None));
    }

    #[test]
    fn an_endpoint_s_service_has_no_region() {
        for (name, service) in [
            ("com.amazonaws.eu-central-1.ecr.api", "ecr.api"),
            ("cn.com.amazonaws.cn-north-1.ecr.dkr", "ecr.dkr"),
            ("com.amazonaws.us-east-1.s3", "s3"),
        ] {
            let text = format!(
                "<R><vpcEndpointSet><item><serviceName>{name}</serviceName><vpcEndpointType>Gateway</vpcEndpointType><state>available</state><routeTableIdSet><item>rtb-1</item></routeTableIdSet></item></vpcEndpointSet></R>"
            );
            let read = first(&text, "vpcEndpointSet", endpoint);
            assert_eq!(read.service, service);
            assert!(read.is_gateway && read.is_available && read.route_tables == ["rtb-1"]);
        }
    }

    #[test]
    fn a_route_s_target_is_found_whatever_its_kind() {
        let text = "<R><routeTableSet><item><routeTableId>rtb-1</routeTableId><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><natGatewayId>nat-1</natGatewayId><state>blackhole</state></item></routeSet><associationSet><item><main>true</main></item><item><subnetId>subnet-1</subnetId></item></associationSet></item></routeTableSet></R>";
        let table = first(text, "routeTableSet", route_table);
        let route = Route {
            destination: "0.0.0.0/0".to_owned(),
            target: "nat-1".to_owned(),
            is_blackhole: true,
        };
        assert_eq!((table.routes, table.is_main), (vec![route], true));
        assert_eq!(table.subnets, ["subnet-1"]);
    }

    fn route(destination: &str, target: &str, is_blackhole: bool) -> Route {
        Route { destination: destination.into(), target: target.into(), is_blackhole }
    }

    #[test]
    fn a_subnet_s_own_table_is_used_before_the_main_one() {
        let subnet = Subnet { id: "subnet-1".into(), ..Subnet::default() };
        let main = RouteTable { id: "rtb-main".into(), is_main: true, ..RouteTable::default() };
        let own = RouteTable {
            id: "rtb-own".into(),
            subnets: vec!["subnet-1".into()],
            ..RouteTable::default()
        };
        let id = |tables: &[RouteTable]| RouteTable::of(&subnet, tables).map(|t| t.id.clone());
        assert_eq!(id(&[main.clone(), own]).as_deref(), Some("rtb-own"));
        assert_eq!(id(&[main]).as_deref(), Some("rtb-main"));
        assert_eq!(id(&[]), None);
    }

    #[test]
    fn the_default_route_decides_where_a_subnet_leads() {
        let table = |routes: Vec<Route>| RouteTable { routes, ..RouteTable::default() };
        let local = route("10.0.0.0/16", "local", false);
        let nat = route("0.0.0.0/0", "nat-1", false);
        let internet = route("0.0.0.0/0", "igw-1", false);
        let dead = route("0.0.0.0/0", "nat-2", true);
        let six = route("::/0", "eigw-1", false);
        assert_eq!(table(vec![local.clone()]).exit(), Exit::Nowhere);
        assert_eq!(table(vec![local.clone(), nat.clone()]).exit(), Exit::Other(&nat));
        assert_eq!(table(vec![internet.clone()]).exit(), Exit::Internet(&internet));
        assert_eq!(table(vec![dead.clone()]).exit(), Exit::Blackhole(&dead));
        assert_eq!(table(vec![dead, six.clone()]).exit(), Exit::Other(&six));
    }
}
