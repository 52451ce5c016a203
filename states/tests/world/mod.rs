//! A world in memory, on the test's clock: ECS, containers, a disk, and processes that may die at
//! any step. For the tests of the engine, the simulation, and the benchmark of a thousand jobs.

pub mod cloud;
pub mod containers;
pub mod crash_point;
pub mod fault_plan;
pub mod manager;
pub mod store;
