//! The security groups: whether they let the manager in, and tasks out.

use std::net::IpAddr;

use states::ControlError;

use super::{Check, Examination, Problem, addresses::Addresses};
use crate::control::{Permission, SecurityGroup};

/// HTTPS: AWS's services and registries.
const HTTPS: u16 = 443;
/// TCP, by its number (IANA, "Protocol Numbers").
const TCP: &str = "6";

/// Whether rules admit this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    Yes,
    No,
    /// It depends on what is not known here.
    Unclear,
}

impl Examination<'_> {
    /// Checks the security groups.
    pub(super) async fn check_security_groups(&mut self) {
        const CHECK: Check = Check::SecurityGroups;
        let groups = match self.find_groups().await {
            Ok(Some(groups)) => groups,
            Ok(None) => return self.report.unknown(CHECK, "The subnets are not known."),
            Err(error) => {
                if error.code.as_deref().is_some_and(|code| code.starts_with("InvalidGroup")) {
                    let why = error.message.trim_end_matches('.').to_owned();
                    let facts = [self.region.clone(), why];
                    self.report.found(CHECK, Problem::NoSecurityGroup, facts);
                } else {
                    self.report.refused(CHECK, &error);
                }
                return;
            }
        };
        let vpc = self.vpc().unwrap_or_default().to_owned();
        for other in groups.iter().filter(|group| !vpc.is_empty() && group.vpc != vpc) {
            let facts = [other.id.clone(), other.vpc.clone(), vpc.clone()];
            self.report.found(CHECK, Problem::OtherVpc, facts);
        }
        let ids: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
        let ids = ids.join(", ");
        let mut egress = groups.iter().flat_map(|group| &group.egress);
        if !egress.any(|rule| rule.is_for_tcp(HTTPS) && !rule.is_empty()) {
            self.report.found(CHECK, Problem::NoEgress, [ids.clone()]);
        }
        if self.config.transport.needs_address {
            self.check_port(&groups, &ids).await;
        }
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, format!("{ids} let the driver in and tasks out."));
        }
    }

    /// Returns the configured groups, or else the VPC's default one, as ECS does. `None`: the VPC is
    /// not known.
    async fn find_groups(&self) -> Result<Option<Vec<SecurityGroup>>, ControlError> {
        let configured = &self.config.fargate.security_groups;
        if !configured.is_empty() {
            return self.control.security_groups(configured).await.map(Some);
        }
        match self.vpc() {
            Some(vpc) => self.control.security_groups_of(vpc, Some("default")).await.map(Some),
            None => Ok(None),
        }
    }

    /// Checks that this machine may connect to the SSH server's port.
    async fn check_port(&mut self, groups: &[SecurityGroup], ids: &str) {
        const CHECK: Check = Check::SecurityGroups;
        let (port, is_public) = (self.config.ssh.port, self.config.fargate.use_public_ip);
        let rules = || groups.iter().flat_map(|group| &group.ingress);
        let is_open = |rule: &Permission| {
            rule.is_for_tcp(port) && rule.ranges.iter().any(|range| range.ends_with("/0"))
        };
        let open = groups.iter().filter(|group| group.ingress.iter().any(is_open));
        if self.config.fargate.enable_public_ip {
            for group in open {
                let facts = [group.id.clone(), port.to_string()];
                self.report.found(CHECK, Problem::OpenToAll, facts);
            }
        }
        let peer = self.subnets.iter().find_map(|subnet| first_address(&subnet.cidr));
        let own = Addresses::find(peer, is_public).await;
        let who: Vec<String> = own
            .addresses
            .iter()
            .map(ToString::to_string)
            .chain(own.groups.iter().cloned())
            .collect();
        match admitted(rules(), port, &own) {
            Admitted::Yes => {}
            Admitted::No => {
                let facts = [ids.to_owned(), who.join(", "), port.to_string()];
                self.report.found(CHECK, Problem::ManagerNotAdmitted, facts);
            }
            Admitted::Unclear => self.report.unknown(
                CHECK,
                format!("Whether {ids} admit this manager to port {port} depends on its address or groups, or on a prefix list, which are not known."),
            ),
        }
    }
}

fn admitted<'a>(
    rules: impl Iterator<Item = &'a Permission>,
    port: u16,
    own: &Addresses,
) -> Admitted {
    let mut is_unclear = own.addresses.is_empty();
    let mut is_any = false;
    for rule in rules.filter(|rule| rule.is_for_tcp(port)) {
        let has_address =
            own.addresses.iter().any(|own| rule.ranges.iter().any(|range| contains(range, *own)));
        let has_group = rule.groups.iter().any(|group| own.groups.contains(group));
        let is_for_all = rule.ranges.iter().any(|range| range == "0.0.0.0/0");
        if has_address || has_group || is_for_all {
            return Admitted::Yes;
        }
        is_any |= !rule.is_empty();
        // The manager's groups are known on an instance only.
        is_unclear |= rule.has_prefix_lists || !rule.groups.is_empty() && own.groups.is_empty();
    }
    if is_unclear && is_any { Admitted::Unclear } else { Admitted::No }
}

impl Permission {
    /// Whether the rule is about this TCP port.
    fn is_for_tcp(&self, port: u16) -> bool {
        match self.protocol.as_str() {
            "-1" => true,
            "tcp" | TCP => {
                self.ports.is_none_or(|(from, to)| (from..=to).contains(&i32::from(port)))
            }
            _ => false,
        }
    }

    /// Whether it names no peer.
    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.groups.is_empty() && !self.has_prefix_lists
    }
}

/// The first address of a CIDR block.
fn first_address(cidr: &str) -> Option<IpAddr> {
    cidr.split('/').next()?.parse().ok()
}

/// Whether a CIDR block contains an address.
fn contains(cidr: &str, address: IpAddr) -> bool {
    let Some((network, length)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let (network, address, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    // Shifting by all bits would overflow; a block of that length contains everything.
    let shift = bits - length.min(bits);
    network.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_by_the_block_s_length() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (block, address, is_in) in [
            ("10.0.0.0/16", "10.0.255.1", true),
            ("10.0.0.0/16", "10.1.0.1", false),
            ("10.0.0.5/32", "10.0.0.5", true),
            ("10.0.0.5/32", "10.0.0.4", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "10.0.0.1", false),
            ("nonsense", "10.0.0.1", false),
        ] {
            assert_eq!(contains(block, ip(address)), is_in, "{block} {address}");
        }
    }

    #[test]
    fn a_rule_admits_by_address_or_group_and_an_unknown_manager_is_unclear() {
        let rule = |ranges: &[&str], groups: &[&str]| Permission {
            protocol: "tcp".into(),
            ports: Some((22, 22)),
            ranges: ranges.iter().map(|r| (*r).to_owned()).collect(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            has_prefix_lists: false,
        };
        let own = |addresses: &[&str], groups: &[&str]| Addresses {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        };
        let instance = own(&["10.0.0.9"], &["sg-m"]);
        let elsewhere = own(&["10.0.0.9"], &[]);
        let nowhere = own(&[], &[]);
        for (rule, own, expected) in [
            (rule(&["10.0.0.0/24"], &[]), &elsewhere, Admitted::Yes),
            (rule(&["10.9.0.0/24"], &[]), &elsewhere, Admitted::No),
            (rule(&[], &["sg-m"]), &instance, Admitted::Yes),
            (rule(&[], &["sg-x"]), &instance, Admitted::No),
            (rule(&[], &["sg-m"]), &elsewhere, Admitted::Unclear),
            (rule(&["10.0.0.0/24"], &[]), &nowhere, Admitted::Unclear),
            (rule(&["0.0.0.0/0"], &[]), &nowhere, Admitted::Yes),
        ] {
            assert_eq!(admitted(std::iter::once(&rule), 22, own), expected, "{rule:?} {own:?}");
        }
        let other = rule(&["0.0.0.0/0"], &[]);
        assert_eq!(admitted(std::iter::once(&other), 2222, &instance), Admitted::No);
        assert_eq!(admitted(std::iter::empty(), 22, &nowhere), Admitted::No);
    }
}
