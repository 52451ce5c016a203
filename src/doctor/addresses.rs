//! This manager's own addresses: what a security group of tasks has to admit.

use std::{
    env,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use aws_config::imds;

/// How long the instance's metadata service may take: it is on the same host.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of this machine in the network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Addresses {
    /// The addresses that it may connect from.
    pub(super) addresses: Vec<IpAddr>,
    /// Its security groups, if it is an instance.
    pub(super) groups: Vec<String>,
}

impl Addresses {
    /// Finds them: by the instance's metadata service, and for private addresses by the route to
    /// `peer`. `is_public`: those that hosts outside the VPC see.
    pub(super) async fn find(peer: Option<IpAddr>, is_public: bool) -> Self {
        let mut found = by_metadata(is_public).await.unwrap_or_default();
        if !is_public && let Some(own) = peer.and_then(toward) {
            found.addresses.push(own);
        }
        found.addresses.sort_unstable();
        found.addresses.dedup();
        found
    }
}

/// This machine's address on the route to a peer. Nothing is sent.
fn toward(peer: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

/// Asks the instance's metadata service (Amazon EC2 user guide, "Instance metadata categories").
async fn by_metadata(is_public: bool) -> Option<Addresses> {
    let is_off =
        env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|off| off.eq_ignore_ascii_case("true"));
    if is_off {
        return None;
    }
    let client = imds::Client::builder()
        .max_attempts(1)
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .build();
    let get = async |path: String| {
        let answer = client.get(format!("/latest/meta-data/{path}")).await.ok()?;
        Some(String::from(answer))
    };
    let mac = get("mac".to_owned()).await?;
    let interface = format!("network/interfaces/macs/{}", mac.trim());
    let which = if is_public { "public-ipv4s" } else { "local-ipv4s" };
    let addresses = get(format!("{interface}/{which}")).await.unwrap_or_default();
    let groups = get(format!("{interface}/security-group-ids")).await.unwrap_or_default();
    Some(Addresses {
        addresses: addresses.lines().filter_map(|line| line.trim().parse().ok()).collect(),
        // A rule with a group is about private addresses.
        groups: groups.lines().filter(|_| !is_public).map(|line| line.trim().to_owned()).collect(),
    })
}
