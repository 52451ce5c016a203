//! Sizes of tasks: how jobs write them, and which of them Fargate has.

use diagnosis::costs::fargate_size;
use states::TaskSize;

/// Ephemeral storage that a task may ask for, in GiB (Amazon ECS API reference,
/// `EphemeralStorage`).
pub(super) const STORAGE: std::ops::RangeInclusive<u32> = 21..=200;

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is not a number of the unit.
    Unreadable,
    /// Fargate has no such pair; this one is the nearest with at least as much of both.
    NoSuchPair {
        /// CPU units.
        cpu: u32,
        /// MiB.
        memory: u32,
    },
    /// It is more than Fargate has.
    TooLarge,
}

/// Reads CPU: `1024` units, or `1 vCPU`.
pub(super) fn cpu(text: &str) -> Result<u32, Unfit> {
    with_unit(text, &[("vcpu", 1024.0), ("", 1.0)])
}

/// Reads memory: `2048` MiB, or `2 GB`.
pub(super) fn memory(text: &str) -> Result<u32, Unfit> {
    let (mebi, gibi) = (1.0, 1024.0);
    with_unit(text, &[("mib", mebi), ("mb", mebi), ("gib", gibi), ("gb", gibi), ("", mebi)])
}

/// Reads storage: `50` GiB, or `50 GB`.
pub(super) fn storage(text: &str) -> Result<u32, Unfit> {
    with_unit(text, &[("gib", 1.0), ("gb", 1.0), ("", 1.0)])
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Result<u32, Unfit> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor);
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let number = digits.trim_end();
    let number = Some(number).filter(|n| n.len() <= 12 && n.chars().all(is_number));
    let (Some(factor), Some(Ok(number))) = (factor, number.map(str::parse::<f64>)) else {
        return Err(Unfit::Unreadable);
    };
    let units = number * factor;
    if units.fract() != 0.0 || units < 1.0 {
        return Err(Unfit::Unreadable);
    }
    if units > f64::from(u32::MAX) {
        return Err(Unfit::TooLarge);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a positive whole number that fits"
    )]
    Ok(units as u32)
}

/// Completes CPU and memory to a pair that Fargate has. If only one is given, the other is the
/// least that fits.
pub(super) fn pair(cpu: Option<u32>, memory: Option<u32>) -> Result<TaskSize, Unfit> {
    let made = |cpu, memory| {
        Ok(TaskSize { cpu: Some(cpu), memory: Some(memory), ephemeral_storage: None })
    };
    if cpu.is_none() && memory.is_none() {
        return Ok(TaskSize::default());
    }
    let (wanted_cpu, wanted_memory) = (cpu.unwrap_or(0), memory.unwrap_or(0));
    let (cpu_size, memory_size) = fargate_size(wanted_cpu, wanted_memory).ok_or(Unfit::TooLarge)?;
    let is_exact =
        cpu.is_none_or(|cpu| cpu == cpu_size) && memory.is_none_or(|memory| memory == memory_size);
    if is_exact {
        made(cpu_size, memory_size)
    } else {
        Err(Unfit::NoSuchPair { cpu: cpu_size, memory: memory_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_their_units() {
        assert_eq!([cpu("1024"), cpu(" 0.5 vCPU"), cpu("4vcpu")], [Ok(1024), Ok(512), Ok(4096)]);
        assert_eq!(
            [memory("2048"), memory("4GB"), memory("0.5 GiB"), memory("512 MB")],
            [Ok(2048), Ok(4096), Ok(512), Ok(512)]
        );
        assert_eq!(storage("50 GiB"), Ok(50));
        for bad in ["", "x", "-1", "1.5.2", "1e3", "0", "0.3", "2 TB", "1 vcpu x", "NaN", "inf"] {
            assert_eq!(cpu(bad), Err(Unfit::Unreadable), "{bad:?}");
        }
        assert_eq!(cpu("999999999999"), Err(Unfit::TooLarge));
    }

    #[test]
    fn fargates_pairs_are_accepted() {
        let size = |cpu, memory| TaskSize {
            cpu: Some(cpu),
            memory: Some(memory),
            ephemeral_storage: None,
        };
        for (cpu, memory) in [
            (256, 512),
            (256, 1024),
            (256, 2048),
            (512, 3072),
            (1024, 8192),
            (4096, 30_720),
            (8192, 20_480),
            (16_384, 122_880),
        ] {
            assert_eq!(pair(Some(cpu), Some(memory)), Ok(size(cpu, memory)));
        }
        assert_eq!(pair(Some(1024), None), Ok(size(1024, 2048)), "the least memory");
        assert_eq!(pair(None, Some(5120)), Ok(size(1024, 5120)), "the least CPU");
        assert_eq!(pair(None, None), Ok(TaskSize::default()));
    }

    #[test]
    fn of_other_pairs_the_nearest_is_named() {
        for (cpu, memory, nearest) in [
            (Some(256), Some(1536), (256, 2048)),
            (Some(256), Some(4096), (512, 4096)),
            (Some(1000), Some(2048), (1024, 2048)),
            (Some(1024), Some(512), (1024, 2048)),
            (Some(8192), Some(17_000), (8192, 20_480)),
            (None, Some(1500), (256, 2048)),
        ] {
            let (c, m) = nearest;
            assert_eq!(pair(cpu, memory), Err(Unfit::NoSuchPair { cpu: c, memory: m }));
        }
        assert_eq!(pair(Some(20_000), None), Err(Unfit::TooLarge));
        assert_eq!(pair(None, Some(200_000)), Err(Unfit::TooLarge));
    }
}
