//! The driver's configuration, as the crate `replay` and the commands that act on a job use it.

use std::{cell::OnceCell, path::Path};

use ::replay::{Driver, Settings, location::ConfigProblem};
use states::Retention;

use crate::{config::Config, ownership};

/// The configuration that the command line names. It is loaded once, by the first who needs it.
#[derive(Debug)]
pub struct Configuration<'a> {
    file: Option<&'a Path>,
    loaded: OnceCell<Config>,
}

impl<'a> Configuration<'a> {
    /// Names the configuration; without a file, it is the default one.
    #[must_use]
    pub fn new(file: Option<&'a Path>) -> Self {
        Self { file, loaded: OnceCell::new() }
    }

    /// Returns the configuration if it was loaded: `--directory` alone needs none.
    #[must_use]
    pub fn loaded(&self) -> Option<&Config> {
        self.loaded.get()
    }
}

impl Driver for Configuration<'_> {
    fn load_settings(&self) -> Result<Settings, ConfigProblem> {
        let config = match self.loaded.get() {
            Some(config) => config,
            None => {
                let (config, _) = Config::load(self.file)?;
                self.loaded.get_or_init(|| config)
            }
        };
        let metadata = &config.metadata;
        Ok(Settings {
            directory: metadata.directory.clone(),
            retention: Retention { age: metadata.keep, count: metadata.keep_count },
            manager: ownership::manager(config),
            prices: config.fargate.prices.clone(),
        })
    }

    fn host(&self) -> String {
        ownership::host()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_once_and_only_if_it_is_needed() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("fargate.toml");
        let text = "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'\nManager = 'm'\n";
        std::fs::write(&file, text).unwrap();
        let configuration = Configuration::new(Some(&file));
        assert!(configuration.loaded().is_none());
        let settings = configuration.load_settings().unwrap();
        assert_eq!(
            (settings.directory.as_path(), settings.manager.as_str()),
            (Path::new("/m"), "m")
        );
        std::fs::remove_file(&file).unwrap();
        assert_eq!(configuration.load_settings().unwrap(), settings);
        assert_eq!(configuration.loaded().unwrap().fargate.cluster, "c");
    }
}
