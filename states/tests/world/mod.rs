//! A world in memory, on the test's clock: ECS, containers, a disk, and processes that can crash at
//! any step. For the engine's tests, the simulation, and the benchmark of a thousand jobs.

pub mod cloud;
pub mod containers;
pub mod crash_point;
pub mod fault_plan;
pub mod manager;
pub mod store;
