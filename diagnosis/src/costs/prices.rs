//! Prices of Fargate, from a file that administrators can replace.

use std::collections::BTreeMap;

use serde::Deserialize;
use states::Architecture;

use super::{Host, NoCost};

/// The prices that are built in.
const BUILT_IN: &str = include_str!("prices.toml");

/// Prices of Fargate by region, for Linux.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The currency's code (ISO 4217).
    pub currency: Text,
    /// The day that they are of.
    pub published: Text,
    regions: BTreeMap<String, Region>,
}

/// A short text that is safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Text(String);

/// The prices of a region.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Region {
    #[serde(rename = "x86_64")]
    x86: Option<Rates>,
    arm64: Option<Rates>,
    #[serde(rename = "spot-x86_64")]
    spot_x86: Option<Rates>,
    spot_arm64: Option<Rates>,
    /// A GB of ephemeral storage beyond the free ones, per hour.
    storage: Option<Rate>,
}

/// Prices per hour.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rates {
    /// A vCPU.
    vcpu: Rate,
    /// A GB of memory.
    gb: Rate,
}

/// A price: finite, and not negative.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
struct Rate(f64);

/// A text that is no file of prices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct BadPrices {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_short = (1..=20).contains(&text.len());
        if is_short && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(text))
        } else {
            Err("expected 1 to 20 letters, digits or hyphens".to_owned())
        }
    }
}

impl TryFrom<f64> for Rate {
    type Error = &'static str;

    fn try_from(price: f64) -> Result<Self, Self::Error> {
        if (0.0..=1000.0).contains(&price) {
            Ok(Self(price))
        } else {
            Err("expected a price per hour, from 0.0 to 1000.0")
        }
    }
}

impl Prices {
    /// The prices of the day when this version was made.
    #[must_use]
    #[allow(clippy::expect_used, reason = "it is part of the program, and a test reads it")]
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the prices are a file of prices")
    }

    /// Reads a file of prices.
    ///
    /// # Errors
    /// Says what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, BadPrices> {
        toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start.min(text.len()));
            let before = &text.as_bytes()[..at];
            BadPrices {
                line: before.iter().filter(|b| **b == b'\n').count() + 1,
                column: before.iter().rev().take_while(|b| **b != b'\n').count() + 1,
                message: e.message().to_owned(),
            }
        })
    }

    fn region(&self, region: &str) -> Result<&Region, NoCost> {
        self.regions.get(region).ok_or_else(|| NoCost::Region(region.to_owned()))
    }

    /// Returns the prices of CPU and memory.
    pub(super) fn rates(
        &self,
        region: &str,
        architecture: Architecture,
        host: &Host,
    ) -> Result<Rates, NoCost> {
        let of = self.region(region)?;
        let rates = match (host, architecture) {
            (Host::Fargate, Architecture::X86) => of.x86,
            (Host::Fargate, Architecture::Arm) => of.arm64,
            (Host::FargateSpot, Architecture::X86) => of.spot_x86,
            (Host::FargateSpot, Architecture::Arm) => of.spot_arm64,
            (Host::Instances(name), _) => return Err(NoCost::Instances(name.clone())),
            (Host::Unknown, _) => return Err(NoCost::UnknownHost),
        };
        rates.ok_or_else(|| NoCost::Price {
            region: region.to_owned(),
            of: named(host, architecture),
        })
    }

    /// Returns the price of storage, per GB and hour.
    pub(super) fn storage(&self, region: &str) -> Result<f64, NoCost> {
        let price = self.region(region)?.storage;
        price.map(|Rate(price)| price).ok_or_else(|| NoCost::Price {
            region: region.to_owned(),
            of: "ephemeral storage above 20 GB",
        })
    }
}

impl Rates {
    /// The price of an hour with so much of both.
    pub(super) fn per_hour(&self, vcpus: f64, gigabytes: f64) -> f64 {
        vcpus * self.vcpu.0 + gigabytes * self.gb.0
    }
}

fn named(host: &Host, architecture: Architecture) -> &'static str {
    match (host, architecture) {
        (Host::FargateSpot, Architecture::X86) => "Fargate Spot on X86_64",
        (Host::FargateSpot, Architecture::Arm) => "Fargate Spot on ARM64",
        (_, Architecture::X86) => "Fargate on X86_64",
        (_, Architecture::Arm) => "Fargate on ARM64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_prices_can_be_read() {
        let prices = Prices::built_in();
        assert_eq!((prices.currency.as_str(), prices.published.as_str()), ("USD", "2026-09-11"));
        assert!(prices.regions.len() > 20);
    }

    #[test]
    fn errors_have_a_place() {
        let head = "currency = \"EUR\"\npublished = \"2026-01-01\"\n[regions.x]\n";
        for (line, place, said) in [
            ("x86_64 = { vcpu = -1.0, gb = 1.0 }", 4, "price per hour"),
            ("x86_64 = { vcpu = 1.0 }", 4, "missing field `gb`"),
            ("x86 = { vcpu = 1.0, gb = 1.0 }", 4, "unknown field `x86`"),
            ("storage = \"a\"", 4, "invalid type"),
        ] {
            let error = Prices::parse(&format!("{head}{line}\n")).unwrap_err();
            assert_eq!(error.line, place, "{error}");
            assert!(error.message.contains(said), "{error}");
        }
        let error =
            Prices::parse("currency = \"<b>\"\npublished = \"x\"\n[regions]\n").unwrap_err();
        assert!(error.message.contains("letters"), "{error}");
    }
}
