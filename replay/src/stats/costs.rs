//! What finished jobs cost, by project.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use diagnosis::{
    costs::{Money, NoCost, Peak, Prices},
    words,
};
use maud::{Markup, html};
use serde::Serialize;
use states::TaskSize;

use super::print_heading;
use crate::{
    Screen,
    screen::{fit, pad, wrap},
    summary::Summary,
};

/// Projects in the text, at most: those that cost most.
const PROJECTS: usize = 10;
const HOUR: f64 = 3600.0;

/// The costs of all jobs.
#[derive(Debug)]
pub(super) struct Costs {
    prices: Prices,
    projects: BTreeMap<String, Project>,
}

/// The costs of a project's jobs.
#[derive(Debug, Default, Clone)]
struct Project {
    /// The jobs with a figure.
    priced: usize,
    amount: f64,
    vcpu_seconds: f64,
    gb_seconds: f64,
    /// The jobs without a figure, by the reason.
    unpriced: BTreeMap<NoCost, usize>,
    /// The largest size that a job had, in each unit.
    size: TaskSize,
    /// The jobs whose use was measured.
    measured: usize,
    peak: Option<Peak>,
}

/// The costs in the output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct CostStatistics {
    currency: String,
    /// The day that the prices are of.
    prices_of: String,
    total: ProjectStatistics,
    /// In descending order of their costs.
    projects: Vec<ProjectStatistics>,
}

/// A project in the output of `--json`, or all of them.
#[derive(Debug, Serialize)]
struct ProjectStatistics {
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    jobs: usize,
    amount: f64,
    vcpu_seconds: f64,
    gb_seconds: f64,
    /// The jobs without a figure, by the reason.
    unpriced: BTreeMap<String, usize>,
    /// The largest size that a job had.
    size: TaskSize,
    measured_jobs: usize,
    /// The most that a job used.
    peak: Option<Peak>,
    /// The smallest size of Fargate's that would have been enough for all of them, if smaller.
    enough: Option<TaskSize>,
}

impl Costs {
    pub(super) fn new(prices: Prices) -> Self {
        Self { prices, projects: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, summary: &Summary<'_>) {
        let Some(bill) = &summary.bill else { return };
        let name = words::project(&summary.project).to_owned();
        let project = self.projects.entry(name).or_default();
        match bill.cost(&self.prices) {
            Ok(money) => {
                project.priced += 1;
                project.amount += money.amount;
            }
            Err(why) => *project.unpriced.entry(why).or_default() += 1,
        }
        project.vcpu_seconds += bill.vcpu_seconds().unwrap_or_default();
        project.gb_seconds += bill.gb_seconds().unwrap_or_default();
        project.size = larger(project.size, bill.size);
        if let Some(peak) = summary.peak {
            project.measured += 1;
            project.peak = Some(project.peak.map_or(peak, |other| other.max(peak)));
        }
    }

    /// Whether no job has facts that costs depend on.
    pub(super) fn is_empty(&self) -> bool {
        self.projects.is_empty()
    }

    /// Returns the projects in descending order of their costs.
    fn by_cost(&self) -> Vec<(&str, &Project)> {
        let mut projects: Vec<_> =
            self.projects.iter().map(|(name, project)| (name.as_str(), project)).collect();
        projects.sort_by(|(_, a), (_, b)| b.amount.total_cmp(&a.amount));
        projects
    }

    fn total(&self) -> Project {
        let mut total = Project::default();
        for project in self.projects.values() {
            total.add(project);
        }
        total
    }

    pub(super) fn statistics(&self) -> Option<CostStatistics> {
        (!self.is_empty()).then(|| CostStatistics {
            currency: self.prices.currency.as_str().to_owned(),
            prices_of: self.prices.published.as_str().to_owned(),
            total: self.total().statistics(None),
            projects: self
                .by_cost()
                .into_iter()
                .map(|(name, project)| project.statistics(Some(name.to_owned())))
                .collect(),
        })
    }

    pub(super) fn print(&self, screen: &mut Screen) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        print_heading(screen, &format!("\n{}", self.heading()))?;
        let projects = self.by_cost();
        for (name, project) in projects.iter().take(PROJECTS) {
            self.print_project(name, project, screen)?;
        }
        if projects.len() > PROJECTS {
            let more = projects.len() - PROJECTS;
            writeln!(screen, "  {more} more projects: --json has them")?;
        }
        if projects.len() > 1 {
            self.print_project("all of them", &self.total(), screen)?;
        }
        Ok(())
    }

    fn heading(&self) -> String {
        let Prices { currency, published, .. } = &self.prices;
        format!(
            "Costs, by project: estimates in {} at the prices of {}",
            currency.as_str(),
            published.as_str()
        )
    }

    fn print_project(&self, name: &str, project: &Project, screen: &mut Screen) -> io::Result<()> {
        let after = format!("  {} in {}", self.money(project.amount), jobs(project.priced));
        let name = fit(name, screen.width.saturating_sub(2 + after.len()));
        writeln!(screen, "  {name}{after}")?;
        for (label, text) in project.details() {
            for (index, line) in wrap(&text, screen.width.saturating_sub(15)).iter().enumerate() {
                let label = if index == 0 { label } else { "" };
                writeln!(screen, "    {}{line}", pad(label, 11))?;
            }
        }
        Ok(())
    }

    fn money(&self, amount: f64) -> Money<'_> {
        Money { amount, currency: self.prices.currency.as_str() }
    }

    pub(super) fn table(&self) -> Markup {
        let projects = self.by_cost();
        let total = self.total();
        let all = (projects.len() > 1).then_some(("all of them", &total));
        html! {
            h2 { (self.heading()) }
            div.wide { table {
                thead { tr {
                    th { "Project" } th.number { "jobs" } th.number { "cost" } th { "Details" }
                } }
                tbody { @for (name, project) in projects.into_iter().chain(all) {
                    tr {
                        td { (name) } td.number { (project.priced) }
                        td.number { (self.money(project.amount)) }
                        td { @for (label, text) in project.details() { div { (label) ": " (text) } } }
                    }
                } }
            } }
        }
    }
}

impl Project {
    fn add(&mut self, other: &Self) {
        self.priced += other.priced;
        self.amount += other.amount;
        self.vcpu_seconds += other.vcpu_seconds;
        self.gb_seconds += other.gb_seconds;
        for (why, count) in &other.unpriced {
            *self.unpriced.entry(why.clone()).or_default() += count;
        }
        self.size = larger(self.size, other.size);
        self.measured += other.measured;
        self.peak = self
            .peak
            .map_or(other.peak, |peak| Some(other.peak.map_or(peak, |other| peak.max(other))));
    }

    /// Returns the lines below a project's costs, with a label each.
    fn details(&self) -> Vec<(&'static str, String)> {
        let (vcpu, gb) = (self.vcpu_seconds / HOUR, self.gb_seconds / HOUR);
        let mut lines = vec![("billed", format!("{vcpu:.1} vCPU-hours and {gb:.1} GB-hours"))];
        if let Some(peak) = self.peak {
            let hint = peak.hint(self.size).map(|hint| format!(": {hint}")).unwrap_or_default();
            let used = peak.in_words(self.size);
            lines.push(("measured", format!("{}, {used}{hint}", jobs(self.measured))));
        }
        lines.extend(
            self.unpriced
                .iter()
                .map(|(why, count)| ("no figure", format!("{}, as {why}", jobs(*count)))),
        );
        lines
    }

    fn statistics(&self, project: Option<String>) -> ProjectStatistics {
        let unpriced = self.unpriced.iter().map(|(why, count)| (why.to_string(), *count));
        ProjectStatistics {
            project,
            jobs: self.priced,
            amount: self.amount,
            vcpu_seconds: self.vcpu_seconds,
            gb_seconds: self.gb_seconds,
            unpriced: unpriced.collect(),
            size: self.size,
            measured_jobs: self.measured,
            peak: self.peak,
            enough: self.peak.and_then(|peak| peak.smaller_size(self.size)),
        }
    }
}

fn larger(size: TaskSize, other: TaskSize) -> TaskSize {
    TaskSize {
        cpu: size.cpu.max(other.cpu),
        memory: size.memory.max(other.memory),
        ephemeral_storage: size.ephemeral_storage.max(other.ephemeral_storage),
    }
}

fn jobs(count: usize) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use diagnosis::costs::{Bill, Host};
    use states::{Architecture, Snapshot};

    use super::*;

    /// What a screen shows.
    #[derive(Clone, Default)]
    struct Shown(Rc<RefCell<Vec<u8>>>);

    impl io::Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn costs() -> Costs {
        let path = format!("{}/../fixtures/snapshots/v1/stopping.ron", env!("CARGO_MANIFEST_DIR"));
        let snapshot = Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let note = Summary::note(&snapshot);
        let bill = Bill {
            region: Some("us-east-1".to_owned()),
            size: TaskSize { cpu: Some(2048), memory: Some(4096), ephemeral_storage: None },
            architecture: Architecture::X86,
            host: Host::Fargate,
            seconds: 3600,
            is_final: true,
        };
        let peak = Peak { cpu: Some(800), memory: Some(1100), has_services: false };
        let on_instances = Bill { host: Host::Instances("gpu".to_owned()), ..bill.clone() };
        let mut costs = Costs::new(Prices::built_in());
        for (project, bill, peak) in [
            ("small", Some(&bill), Some(peak)),
            ("large", Some(&bill), None),
            ("large", Some(&bill), None),
            ("large", Some(&on_instances), None),
            ("of-an-older-driver", None, None),
        ] {
            let mut summary = Summary::parse(&note).unwrap();
            summary.project = format!("https://gitlab.example/g/{project}").into();
            (summary.bill, summary.peak) = (bill.cloned(), peak);
            costs.add(&summary);
        }
        costs
    }

    /// An hour of 2 vCPU and 4 GB: 2 × 0.04048 + 4 × 0.004445 = 0.08096 + 0.01778 = 0.09874.
    #[test]
    fn projects_are_in_the_order_of_their_costs_with_a_total() {
        let shown = Shown::default();
        costs().print(&mut Screen::plain(shown.clone(), 100)).unwrap();
        let text = String::from_utf8(shown.0.borrow().clone()).unwrap();
        let expected = "
Costs, by project: estimates in USD at the prices of 2026-09-11
  g/large  $0.1975 in 2 jobs
    billed     6.0 vCPU-hours and 12.0 GB-hours
    no figure  1 job, as it ran on instances (gpu), which cost the same with or without it
  g/small  $0.0987 in 1 job
    billed     2.0 vCPU-hours and 4.0 GB-hours
    measured   1 job, used at most 0.8 of 2 vCPU and 1.1 of 4 GB: 1 vCPU and 2 GB would have been
               enough
  all of them  $0.2962 in 3 jobs
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn programs_get_the_same_figures() {
        let statistics = serde_json::to_value(costs().statistics().unwrap()).unwrap();
        assert_eq!(statistics["projects"][0]["project"], "g/large");
        assert!((statistics["total"]["amount"].as_f64().unwrap() - 3.0 * 0.098_74).abs() < 1e-9);
        assert_eq!(statistics["projects"][1]["enough"]["memory"], 2048);
        let page = costs().table().into_string();
        assert!(page.contains("g/small") && page.contains("$0.0987"), "{page}");
        assert!(Costs::new(Prices::built_in()).statistics().is_none());
    }
}
