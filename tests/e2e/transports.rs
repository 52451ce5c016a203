//! A job keeps its transport.

use std::{fs, sync::atomic::Ordering};

use crate::{
    cluster::Cluster,
    parametrised::by_every_transport,
    replay_act::{id, replay},
    runner::{Job, SYSTEM_FAILURE},
};

by_every_transport!(
    a_job_keeps_its_transport_when_the_configuration_names_another,
    a_job_of_a_transport_that_the_driver_does_not_have_is_explained,
);

fn a_job_keeps_its_transport_when_the_configuration_names_another(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let name = format!("name: {:?}", cluster.transport());
    assert!(job.snapshot().contains(&name), "{}", job.snapshot());
    let other = if cluster.is_by_ecs_exec() { "ssh" } else { "ecs-exec" };
    let config = fs::read_to_string(&job.config).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("Transport"));
    let rest: Vec<&str> = lines.collect();
    fs::write(&job.config, format!("Transport = {other:?}\n{}", rest.join("\n"))).unwrap();
    let run = job.run("build_script", "echo here");
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"here\n"[..]), "{run:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_job_of_a_transport_that_the_driver_does_not_have_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let name = |transport: &str| format!("name: {transport:?}");
    let snapshot = job.snapshot().replace(&name(cluster.transport()), &name("carrier-pigeon"));
    fs::write(&job.files(".ron")[0], snapshot).unwrap();
    job.edited.store(true, Ordering::Relaxed);
    let run = job.run("build_script", "echo here");
    assert_eq!(run.code, SYSTEM_FAILURE, "{run:#?}");
    assert!(run.stderr.contains("the transport \"carrier-pigeon\""), "{}", run.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// A transport may support scripts only.
#[test]
fn a_transport_without_interactive_access_opens_no_terminal() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    job.prepare();
    let shell = replay(&job).args(["shell", &id(&job), "--", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&shell.stderr).into_owned();
    assert!(shell.status.code() == Some(255) && said.contains("has no terminals"), "{shell:?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
