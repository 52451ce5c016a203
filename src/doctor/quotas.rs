//! The account's quotas for Fargate, compared with the number of jobs that gitlab-runner runs.

use super::{Check, Examination, Problem};

/// Codes of Service Quotas, of the service `fargate`: vCPUs that run at the same time.
const ON_DEMAND: (&str, &str) = ("on demand", "L-3032A538");
const SPOT: (&str, &str) = ("Spot", "L-36FBB829");
/// Tasks that an account may launch at once (AWS Fargate throttling quotas: bucket size).
const BURST: u32 = 100;

impl Examination<'_> {
    /// Checks the quotas.
    pub(super) async fn check_quotas(&mut self) {
        const CHECK: Check = Check::Quotas;
        let units = self.definition.as_ref().and_then(|d| d.cpu()?.parse::<f64>().ok());
        let Some(units) = units else {
            return self.report.unknown(CHECK, "The size of a task is not known.");
        };
        let one = units / 1024.0;
        let jobs = self.concurrent;
        if let Some(jobs) = jobs.filter(|jobs| *jobs > BURST) {
            self.report.found(CHECK, Problem::AboveLaunchRate, [jobs.to_string()]);
        }
        let (on_demand, spot) = self.markets();
        let mut says = Vec::new();
        for (name, code) in
            [on_demand.then_some(ON_DEMAND), spot.then_some(SPOT)].into_iter().flatten()
        {
            let quota = match self.control.quota("fargate", code).await {
                Ok(quota) => quota,
                Err(error) => {
                    self.report.refused(CHECK, &error);
                    continue;
                }
            };
            let fact = |number: f64| number.to_string();
            let all = jobs.map(|jobs| (jobs, f64::from(jobs) * one));
            match all {
                _ if quota < one => {
                    let facts = [name.to_owned(), fact(quota), fact(one)];
                    self.report.found(CHECK, Problem::QuotaTooLow, facts);
                }
                // With both, tasks may run on either.
                Some((jobs, all)) if quota < all => {
                    let facts =
                        [name.to_owned(), fact(quota), jobs.to_string(), fact(one), fact(all)];
                    self.report.found(CHECK, Problem::QuotaBelowConcurrent, facts);
                }
                _ => says.push(format!("{quota} vCPUs {name}")),
            }
        }
        if !on_demand && !spot {
            return self.report.unknown(CHECK, "It is not known where tasks run.");
        }
        if self.report.is_clean(CHECK) {
            let jobs = jobs.map_or_else(String::new, |jobs| format!(", up to {jobs} of them"));
            self.report.pass(CHECK, format!("{}; a task has {one}{jobs}.", says.join(", ")));
        }
    }
}
