//! What goes in front of gitlab-runner's scripts in jobs with images or services: short shell
//! commands that make both containers agree about files, and wait for services.

use std::time::Duration;

use bytes::Bytes;
use states::{LaunchSpec, RunContainer, ServiceContainer};

use crate::runner::prepend;

/// In front of scripts in the coordinator.
const COORDINATOR: &str = include_str!("prelude/coordinator.sh");
/// In front of scripts in the job's container.
const JOB: &str = include_str!("prelude/job.sh");
/// In front of the scripts that use services.
const SERVICES: &str = include_str!("prelude/services.sh");

/// Puts in front of a script what it needs in this container.
pub(super) fn added(
    script: Bytes,
    spec: &LaunchSpec,
    container: RunContainer,
    uses_services: bool,
    wait: Duration,
) -> Bytes {
    let mut commands = String::new();
    if spec.job_container().is_some() {
        commands += &one_line(match container {
            RunContainer::Coordinator => COORDINATOR,
            RunContainer::Job => JOB,
        });
    }
    let services = spec.additions.as_ref().map_or(&[][..], |additions| &additions.services);
    if uses_services && !services.is_empty() {
        let shared = spec.job_container().map(|container| container.shared.run.as_str());
        commands += &services_prelude(services, shared.unwrap_or("/tmp"), wait);
    }
    if commands.is_empty() { script } else { prepend(script, commands.trim_end()) }
}

fn services_prelude(services: &[ServiceContainer], directory: &str, wait: Duration) -> String {
    let names: Vec<&str> =
        services.iter().flat_map(|service| &service.aliases).map(String::as_str).collect();
    let port = |service: &ServiceContainer| {
        let name = service.aliases.first().unwrap_or(&service.name);
        service.port.map(|port| format!("{port:04X},{port},{name}"))
    };
    let ports: Vec<String> = services.iter().filter_map(port).collect();
    // Host names and numbers: nothing that a shell treats specially.
    format!(
        "_names='{}' _ports='{}' _wait={} _marker='{directory}/.services'; {}",
        names.join(" "),
        ports.join(" "),
        wait.as_secs(),
        one_line(SERVICES)
    )
}

/// Joins a program's lines, each of which ends with `;` or a word after which a command may follow.
/// Comments have lines of their own.
fn one_line(program: &str) -> String {
    let lines = program.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.fold(String::new(), |text, line| text + line + " ")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::TcpListener,
        path::Path,
        process::{Command, Output},
    };

    use super::*;

    /// Runs a prelude and then `echo done`, in `sh`.
    fn run(commands: &str) -> Output {
        let script = prepend(Bytes::from("echo done"), commands);
        let script = String::from_utf8(script.to_vec()).unwrap();
        assert_eq!(script.lines().count(), 1, "{script}");
        Command::new("sh").arg("-euc").arg(script).output().unwrap()
    }

    fn service(name: &str, port: Option<u16>) -> ServiceContainer {
        ServiceContainer {
            name: "service-0".into(),
            image: states::ContainerImage {
                name: "i".into(),
                credentials: None,
                entry_point: None,
            },
            command: None,
            aliases: vec![name.into()],
            port,
        }
    }

    /// Waits for this service's port. The host's own file of names stays as it is.
    fn wait_for(port: u16, wait: u64, place: &Path) -> Output {
        let hosts = place.join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let prelude = services_prelude(
            &[service("db", Some(port))],
            place.to_str().unwrap(),
            Duration::from_secs(wait),
        );
        run(&prelude.replace("/etc/hosts", hosts.to_str().unwrap()))
    }

    #[test]
    fn the_containers_preludes_are_one_line_of_any_shell() {
        for prelude in [COORDINATOR, JOB] {
            let output = run(&one_line(prelude));
            assert!(output.status.success() && output.stdout == b"done\n", "{output:?}");
        }
    }

    #[test]
    fn a_service_that_listens_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let output = wait_for(listener.local_addr().unwrap().port(), 60, place.path());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{output:?}");
        let hosts = fs::read_to_string(place.path().join("hosts")).unwrap();
        assert_eq!(hosts, "127.0.0.1 localhost\n127.0.0.1 db\n");
        assert!(place.path().join(".services").exists());
    }

    #[test]
    fn a_service_that_does_not_listen_is_reported_once() {
        let place = tempfile::tempdir().unwrap();
        // A port that no program listens at, and that the kernel gives to none.
        let free = 1;
        let output = wait_for(free, 0, place.path());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains(&format!(
                "the service db probably did not start properly: nothing listens at port {free}"
            )),
            "{output:?}"
        );
        assert!(said.ends_with("done\n"), "{said}");
        let again = wait_for(free, 60, place.path());
        assert_eq!(again.stdout, b"done\n", "a later script does not wait again");
    }
}
