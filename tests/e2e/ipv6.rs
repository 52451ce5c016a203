//! A task in an IPv6-only subnet: ECS shows no address in its attachment, and an IPv6 address at
//! its container.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Local},
    http::Message,
    proxy::Proxy,
    runner::Job,
};

/// The local cluster's API, with its task moved to the loopback's IPv6 address.
fn api_before(local: &Local) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (above, port) = (local.endpoint.trim_start_matches("http://").to_owned(), local.ssh_port);
    std::thread::spawn(move || {
        let mut stands = false;
        for stream in listener.incoming().flatten() {
            let _ = pass(&stream, &above, port, &mut stands);
        }
    });
    endpoint
}

fn pass(stream: &TcpStream, above: &str, port: u16, stands: &mut bool) -> Option<()> {
    let request = Message::read(stream)?;
    let upstream = TcpStream::connect(above).ok()?;
    request.write(&upstream).ok()?;
    let mut answer = Message::read(&upstream)?;
    if let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) {
        for task in body["tasks"].as_array_mut().into_iter().flatten() {
            let details = task["attachments"][0]["details"].as_array_mut()?;
            let address =
                details.iter().find(|detail| detail["name"] == "privateIPv4Address").cloned();
            details.retain(|detail| detail["name"] != "privateIPv4Address");
            for container in task["containers"].as_array_mut().into_iter().flatten() {
                let is_there = container["networkInterfaces"]
                    .as_array()
                    .is_some_and(|interfaces| !interfaces.is_empty());
                container["networkInterfaces"] =
                    if is_there { json!([{ "ipv6Address": "::1" }]) } else { json!([]) };
            }
            if let Some(address) = address.filter(|_| !*stands) {
                let server = SocketAddr::new(address["value"].as_str()?.parse().ok()?, port);
                Proxy::new().stand_before(SocketAddr::from((Ipv6Addr::LOCALHOST, port)), server);
                *stands = true;
            }
        }
        answer.body = body.to_string().into_bytes();
    }
    answer.write(stream).ok()
}

#[test]
fn a_job_runs_in_an_ipv6_only_subnet() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.set("AWS_ENDPOINT_URL", &api_before(cluster.as_local()));
    job.prepare();
    assert!(job.snapshot().contains("address: \"::1\""), "{}", job.snapshot());
    assert_eq!(job.run("build_script", "echo reached").stdout, b"reached\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Messages separate such an address from the port, and refusals name it.
#[test]
fn an_ipv6_address_that_does_not_answer_is_named() {
    let cluster = Cluster::local();
    let mut job = Job::with(&cluster, "[Deadlines]\nRunning = \"2s\"\n");
    cluster.as_local().set_faults(&json!({ "ssh": { "never_listens": true } }));
    job.set("AWS_ENDPOINT_URL", &api_before(cluster.as_local()));
    let prepared = job.stage(&["prepare"]);
    assert_ne!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("::1 port "), "{}", prepared.stderr);
    job.cleanup();
}
