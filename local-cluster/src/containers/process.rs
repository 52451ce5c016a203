//! The main process of a container, by the rules of Docker: what is executed, as whom, with which
//! environment.

use std::{collections::BTreeMap, path::Path};

use super::root::{self, User};
use crate::{
    cluster::{Cluster, ContainerOverride, Task},
    definitions::ContainerDefinition,
    images::Image,
    task::processes,
};

/// `PATH` where the image has none, as in Docker.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's main process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Empty if neither the definition nor the image has a command.
    pub(super) words: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) user: User,
    pub(super) directory: String,
}

impl Process {
    /// Resolves it from the definition, RunTask's overrides and the image. The error is runc's.
    pub(super) fn resolve(
        cluster: &Cluster,
        task: &Task,
        container: &ContainerDefinition,
        image: &Image,
    ) -> Result<Self, String> {
        let given = task.launch.container_overrides.get(&container.name);
        let config = &image.config;
        let user = container.user.as_deref().or(config.user.as_deref()).unwrap_or_default();
        let user = User::find(&image.root, user)?;
        let directory = container.working_directory.as_deref().or(config.working_dir.as_deref());
        let directory = directory.filter(|directory| !directory.is_empty()).unwrap_or("/");
        if !directory.starts_with('/') {
            return Err(format!(
                "the working directory '{directory}' is invalid, it needs to be an absolute path"
            ));
        }
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
            ("HOME".to_owned(), user.home.clone()),
        ]);
        let of_image = config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
        environment.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            environment.insert(name.to_owned(), cluster.settings.region.clone());
        }
        environment.insert("AWS_EXECUTION_ENV".to_owned(), "AWS_ECS_FARGATE".to_owned());
        environment.extend(container.environment.iter().cloned());
        environment.extend(given.into_iter().flat_map(|given| given.environment.iter().cloned()));
        // Its processes are shown as the task's. They are not signalled by this mark.
        environment.insert(processes::MARK.to_owned(), format!("{}/{}", task.id, container.name));
        Ok(Self {
            words: words(container, given, image),
            environment,
            user,
            directory: directory.to_owned(),
        })
    }

    /// Checks that the command can be executed.
    pub(super) fn check(
        &self,
        container: &ContainerDefinition,
        image: &Image,
    ) -> Result<(), String> {
        let program = self.words.first().ok_or("no command specified")?;
        let mounted: Vec<&str> = container.mounts.iter().map(|mount| mount.path.as_str()).collect();
        let search = self.environment.get("PATH").map_or("", String::as_str);
        root::check_program(Path::new(&image.root), program, &self.directory, search, &mounted)
    }
}

/// Returns entry point and command. An entry point of the definition's drops the image's command.
fn words(
    container: &ContainerDefinition,
    given: Option<&ContainerOverride>,
    image: &Image,
) -> Vec<String> {
    let own = container.entry_point.as_ref();
    let entry_point = own.or(image.config.entrypoint.as_ref());
    let command = given
        .and_then(|given| given.command.as_ref())
        .or(container.command.as_ref())
        .or(image.config.cmd.as_ref().filter(|_| own.is_none()));
    entry_point.into_iter().chain(command).flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageConfig;

    #[test]
    fn entry_points_and_commands_are_combined_as_by_docker() {
        let list = |words: &[&str]| {
            Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
                .filter(|words| !words.is_empty())
        };
        let config =
            ImageConfig { entrypoint: list(&["e"]), cmd: list(&["c"]), ..ImageConfig::default() };
        let image = Image { root: "/".into(), config };
        for (entry_point, command, overridden, expected) in [
            (&[][..], &[][..], &[][..], &["e", "c"][..]),
            (&[], &["x"], &[], &["e", "x"]),
            (&["y"], &[], &[], &["y"]),
            (&["y"], &["x"], &[], &["y", "x"]),
            (&[], &["x"], &["z"], &["e", "z"]),
            (&[""], &["x"], &[], &["", "x"]),
        ] {
            let container = ContainerDefinition {
                entry_point: list(entry_point),
                command: list(command),
                ..ContainerDefinition::default()
            };
            let given =
                ContainerOverride { command: list(overridden), ..ContainerOverride::default() };
            assert_eq!(words(&container, Some(&given), &image), expected);
        }
    }
}
