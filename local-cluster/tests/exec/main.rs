//! ECS Exec as a client sees it: the API, data channels, a shell on a terminal, and what goes
//! wrong. The client here has a codec of its own and follows AWS's client.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod calls;
mod client;
mod hostile;
mod opening;
mod rules;
#[path = "../signer/mod.rs"]
mod signer;
mod stream;

use client::{Client, Opened, ecs, task, until_connected};
use local_cluster::{ExecFaults, ExecSettings, Faults, LocalCluster, Settings};
use serde_json::json;

async fn start(exec: ExecSettings) -> LocalCluster {
    LocalCluster::start(Settings { exec, ..Settings::default() }).await.unwrap()
}

/// A running task with a connected agent.
async fn prepared(exec: ExecSettings) -> (LocalCluster, String) {
    let cluster = start(exec).await;
    let task = task(&cluster, true).await;
    until_connected(&cluster, &task).await;
    (cluster, task)
}

async fn execute(cluster: &LocalCluster, task: &str, command: &str) -> Result<Opened, String> {
    let parameters =
        json!({ "cluster": "local", "task": task, "command": command, "interactive": true });
    ecs(cluster, "ExecuteCommand", parameters).await.map(|answer| Opened::from(&answer["session"]))
}

async fn session(cluster: &LocalCluster, task: &str, command: &str) -> Client {
    let opened = execute(cluster, task, command).await.unwrap();
    Client::open(&opened, &opened.token).await
}

/// What a terminal that prints these numbers, without translation, sends.
fn numbers(to: u32) -> Vec<u8> {
    (1..=to).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

/// Prints numbers, byte for byte, and then waits for a line.
fn counting(to: u32) -> String {
    format!("/bin/sh -c 'stty raw -echo; seq 1 {to}; read line'")
}

fn faults(exec: ExecFaults) -> Faults {
    Faults { exec, ..Faults::default() }
}
