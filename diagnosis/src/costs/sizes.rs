//! Fargate's table of CPU and memory.

/// The CPU sizes of Fargate, in units of 1/1024 vCPU. Each is with the memory that it may have, in
/// MiB: least, most, step. At the smallest size, steps double. (Amazon ECS Developer Guide, "Task
/// CPU and memory".)
const SIZES: [(u32, u32, u32, u32); 7] = [
    (256, 512, 2048, 512),
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16_384, 1024),
    (4096, 8192, 30_720, 1024),
    (8192, 16_384, 61_440, 4096),
    (16_384, 32_768, 122_880, 8192),
];
/// The size at which 1.5 GiB is no memory of Fargate's.
const SMALLEST: u32 = 256;

/// Returns the smallest size of Fargate's with at least as much of both: CPU units and MiB. `None`:
/// Fargate has none.
#[must_use]
pub fn fargate_size(cpu: u32, memory: u32) -> Option<(u32, u32)> {
    SIZES.iter().filter(|(size, ..)| *size >= cpu).find_map(|(size, least, most, step)| {
        let steps = memory.saturating_sub(*least).div_ceil(*step);
        let mut rounded = least + steps * step;
        if *size == SMALLEST && rounded == 1536 {
            rounded = 2048;
        }
        (rounded <= *most).then_some((*size, rounded))
    })
}
