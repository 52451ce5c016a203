//! The modules of the end-to-end tests by which benchmarks call the binary. They name each other as
//! modules of the crate's root: import all of them there.

#[path = "../../tests/e2e/cluster.rs"]
pub mod cluster;
#[path = "../../tests/e2e/http.rs"]
pub mod http;
#[path = "../../tests/e2e/moto.rs"]
pub mod moto;
#[path = "../../tests/e2e/openssh.rs"]
pub mod openssh;
#[path = "../../tests/e2e/processes.rs"]
pub mod processes;
#[path = "../../tests/e2e/proxy.rs"]
pub mod proxy;
#[path = "../../tests/e2e/runner.rs"]
pub mod runner;
#[path = "../../tests/e2e/serve.rs"]
pub mod serve;
