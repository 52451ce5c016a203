//! The sizes that a Fargate task can have.

use serde_json::Value;

use crate::api::ApiError;

/// Ephemeral storage in GiB (ECS API reference, `EphemeralStorage`).
const STORAGE: std::ops::RangeInclusive<u64> = 21..=200;

/// Checks a pair of CPU and memory, as ECS takes them: `"256"` or `".25 vCPU"`, `"512"` or
/// `"0.5 GB"`. Returns the pair in CPU units and MiB.
pub(crate) fn check_pair(cpu: &Value, memory: &Value) -> Result<(u64, u64), ApiError> {
    let cpu_units = units(cpu, "vcpu")
        .ok_or_else(|| ApiError::client("Invalid 'cpu' setting for task. It must be a number."))?;
    let mib = units(memory, "gb").ok_or_else(|| {
        ApiError::client("Invalid 'memory' setting for task. It must be a number.")
    })?;
    if is_pair(cpu_units, mib) {
        Ok((cpu_units, mib))
    } else {
        Err(ApiError::client(format!(
            "No Fargate configuration exists for given values: {cpu_units} CPU, {mib} memory. See the Amazon ECS documentation for the valid values."
        )))
    }
}

/// Checks `ephemeralStorage`, in a definition or in overrides.
pub(crate) fn check_storage(storage: Option<&Value>) -> Result<(), ApiError> {
    let Some(storage) = storage.filter(|storage| !storage.is_null()) else { return Ok(()) };
    match storage.get("sizeInGiB").and_then(Value::as_u64) {
        Some(size) if STORAGE.contains(&size) => Ok(()),
        _ => Err(ApiError::client(format!(
            "Invalid ephemeral storage size. The size in GiB must be between {} and {}.",
            STORAGE.start(),
            STORAGE.end()
        ))),
    }
}

/// Parses an amount: units as they are, or a multiple of 1024 with a unit.
fn units(value: &Value, unit: &str) -> Option<u64> {
    let text = value.as_str()?.trim().to_ascii_lowercase();
    match text.strip_suffix(unit) {
        Some(number) => {
            let number: f64 = number.trim().parse().ok()?;
            // At most 16 vCPU and 120 GB: no precision is lost.
            (0.0..1024.0).contains(&number).then(|| (number * 1024.0).round() as u64)
        }
        None => text.parse().ok(),
    }
}

/// Whether Fargate has the size (ECS developer guide, "Task CPU and memory").
fn is_pair(cpu: u64, mib: u64) -> bool {
    let steps = |least: u64, most: u64, step: u64| {
        (least * 1024..=most * 1024).contains(&mib)
            && (mib - least * 1024).is_multiple_of(step * 1024)
    };
    match cpu {
        256 => matches!(mib, 512 | 1024 | 2048),
        512 => steps(1, 4, 1),
        1024 => steps(2, 8, 1),
        2048 => steps(4, 16, 1),
        4096 => steps(8, 30, 1),
        8192 => steps(16, 60, 4),
        16384 => steps(32, 120, 8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_those_of_fargate() {
        for (cpu, memory, pair) in [
            ("256", "512", Some((256, 512))),
            (".25 vCPU", "0.5GB", Some((256, 512))),
            ("1 vcpu", "8 GB", Some((1024, 8192))),
            ("4096", "30720", Some((4096, 30720))),
            ("8192", "20480", Some((8192, 20480))),
            ("16384", "122880", Some((16384, 122880))),
            ("256", "4096", None),
            ("512", "512", None),
            ("8192", "17408", None),
            ("300", "512", None),
            ("many", "512", None),
            ("256", "-1 GB", None),
        ] {
            assert_eq!(check_pair(&json!(cpu), &json!(memory)).ok(), pair, "{cpu} {memory}");
        }
        let error = check_pair(&json!("512"), &json!("512")).unwrap_err();
        assert!(
            error.message.starts_with(
                "No Fargate configuration exists for given values: 512 CPU, 512 memory."
            )
        );
    }

    #[test]
    fn storage_is_21_to_200_gib() {
        for (size, is_valid) in [(20, false), (21, true), (200, true), (201, false)] {
            let storage = json!({ "sizeInGiB": size });
            assert_eq!(check_storage(Some(&storage)).is_ok(), is_valid, "{size}");
        }
        assert!(check_storage(None).is_ok());
        assert!(check_storage(Some(&json!({}))).is_err());
    }
}
