//! What a job costs, and what of that it uses: a [`Bill`] of facts from its snapshot, money from
//! these and [`Prices`], and the [`Peak`] of its use.
//!
//! A cost is an estimate. It has CPU, memory and storage at list prices, and neither discounts nor
//! taxes, nor what else a task causes: addresses, traffic, logs.

mod bill;
mod peak;
mod prices;
mod sizes;

use std::{fmt, time::Duration};

use states::TaskSize;

pub use bill::{Bill, Host};
pub use peak::Peak;
pub use prices::{BadPrices, Prices, Text};
pub use sizes::fargate_size;

use crate::words;

/// Seconds of an hour, for prices per hour.
const HOUR: f64 = 3600.0;
/// Ephemeral storage that every task has for nothing, in GB (AWS Fargate pricing).
const FREE_STORAGE: u32 = 20;

/// An amount of money.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Money<'a> {
    /// The amount, in units of the currency.
    pub amount: f64,
    /// The currency's code.
    pub currency: &'a str,
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum NoCost {
    #[error("it ran on instances ({0}), which cost the same with or without it")]
    Instances(String),
    #[error("ECS did not report whether it ran on Fargate")]
    UnknownHost,
    #[error("ECS did not report its size")]
    Size,
    #[error("its ARN names no region")]
    NoRegion,
    #[error("there are no prices of the region {0}")]
    Region(String),
    #[error("there is no price of {of} in {region}")]
    Price { region: String, of: &'static str },
}

impl Bill {
    /// Returns what the task costs.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn cost<'a>(&self, prices: &'a Prices) -> Result<Money<'a>, NoCost> {
        if let Host::Instances(name) = &self.host {
            return Err(NoCost::Instances(name.clone()));
        }
        let region = self.region.as_deref().ok_or(NoCost::NoRegion)?;
        let (Some(vcpus), Some(gigabytes)) = (self.vcpus(), self.gigabytes()) else {
            return Err(NoCost::Size);
        };
        let rates = prices.rates(region, self.architecture, &self.host)?;
        let storage = self.size.ephemeral_storage.unwrap_or(0).saturating_sub(FREE_STORAGE);
        let for_storage =
            if storage > 0 { f64::from(storage) * prices.storage(region)? } else { 0.0 };
        let per_hour = rates.per_hour(vcpus, gigabytes) + for_storage;
        let amount = per_hour * bill::seconds(self.seconds) / HOUR;
        Ok(Money { amount, currency: prices.currency.as_str() })
    }

    /// Says what the task costs, or why that is not known, and how it is billed.
    #[must_use]
    pub fn in_words(&self, prices: &Prices) -> String {
        let so_far = if self.is_final { "" } else { " so far" };
        match self.cost(prices) {
            Ok(money) => format!(
                "about {money}{so_far}: {}, at the prices of {}",
                self.quantities(),
                prices.published.as_str()
            ),
            Err(why) => format!("not known, as {why}: {}{so_far}", self.quantities()),
        }
    }

    /// Says what is billed: `1 vCPU and 2 GB for 3m 20s on Fargate Spot`.
    fn quantities(&self) -> String {
        let storage = self.size.ephemeral_storage.filter(|storage| *storage > FREE_STORAGE);
        let storage = storage.map(|storage| format!("{storage} GB of storage"));
        let parts: Vec<String> = size_in_parts(self.size).into_iter().chain(storage).collect();
        let size = if parts.is_empty() { "a task".to_owned() } else { parts.join(" and ") };
        let place = match &self.host {
            Host::Fargate => " on Fargate".to_owned(),
            Host::FargateSpot => " on Fargate Spot".to_owned(),
            Host::Instances(name) => format!(" on {name}"),
            Host::Unknown => String::new(),
        };
        format!("{size} for {}{place}", words::span(Duration::from_secs(self.seconds)))
    }
}

impl fmt::Display for Money<'_> {
    /// Writes cents, and of small amounts as much as there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = if self.amount >= 1.0 { 2 } else { 4 };
        match self.currency {
            "USD" => write!(f, "${:.decimals$}", self.amount),
            other => write!(f, "{:.decimals$} {other}", self.amount),
        }
    }
}

/// A size in words: `1 vCPU and 2 GB`.
#[must_use]
pub fn size_in_words(size: TaskSize) -> String {
    size_in_parts(size).join(" and ")
}

fn size_in_parts(size: TaskSize) -> Vec<String> {
    let cpu = size.cpu.map(|cpu| format!("{} vCPU", number(cpu)));
    let memory = size.memory.map(|memory| format!("{} GB", number(memory)));
    cpu.into_iter().chain(memory).collect()
}

/// A number of 1024ths, with two decimals at most.
fn number(parts: u32) -> String {
    let text = format!("{:.2}", f64::from(parts) / 1024.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[path = "costs/tests.rs"]
mod tests;
