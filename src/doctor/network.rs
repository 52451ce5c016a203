//! The subnets: whether they exist, are in one VPC, and have addresses.

use std::collections::BTreeSet;

use super::{Check, Examination, Problem};

impl Examination<'_> {
    /// Checks the subnets.
    pub(super) async fn check_subnets(&mut self) {
        const CHECK: Check = Check::Subnets;
        let subnets = match self.control.subnets(&self.config.fargate.subnets).await {
            Ok(subnets) => subnets,
            Err(error) => {
                if error.code.as_deref().is_some_and(|code| code.starts_with("InvalidSubnet")) {
                    let facts =
                        [self.region.clone(), error.message.trim_end_matches('.').to_owned()];
                    self.report.found(CHECK, Problem::NoSubnet, facts);
                } else {
                    self.report.refused(CHECK, &error);
                }
                return;
            }
        };
        let vpcs: BTreeSet<&str> = subnets.iter().map(|subnet| subnet.vpc.as_str()).collect();
        if vpcs.len() > 1 {
            let listed: Vec<String> =
                subnets.iter().map(|subnet| format!("{} in {}", subnet.id, subnet.vpc)).collect();
            self.report.found(CHECK, Problem::SeveralVpcs, [listed.join(", ")]);
            return;
        }
        // Subnets with IPv6 alone count no addresses.
        let counted = || subnets.iter().filter(|subnet| !subnet.cidr.is_empty());
        for full in counted().filter(|subnet| subnet.free_addresses == 0) {
            self.report.found(CHECK, Problem::SubnetFull, [full.id.clone()]);
        }
        let free: u64 = counted().map(|subnet| subnet.free_addresses).sum();
        let is_counted = counted().count() == subnets.len();
        if let Some(jobs) = self.concurrent
            && is_counted
            && (1..u64::from(jobs)).contains(&free)
        {
            let facts = [free.to_string(), jobs.to_string()];
            self.report.found(CHECK, Problem::FewAddresses, facts);
        }
        if self.report.is_clean(CHECK) {
            let zones: BTreeSet<&str> = subnets.iter().map(|subnet| subnet.zone.as_str()).collect();
            let zones: Vec<&str> = zones.into_iter().collect();
            let vpc = vpcs.first().copied().unwrap_or_default();
            self.report
                .pass(CHECK, format!("In {vpc}, {}, {free} free addresses.", zones.join(", ")));
        }
        self.subnets = subnets;
    }

    /// The VPC of the subnets, if they are known and in one.
    pub(super) fn vpc(&self) -> Option<&str> {
        self.subnets.first().map(|subnet| subnet.vpc.as_str())
    }
}
