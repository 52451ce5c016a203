//! A `fargate.toml`: a configuration, or an error that says where and what.

use std::path::Path;

use fargate_driver::config::{Config, ConfigError};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, Path::new("fargate.toml")) {
        Ok((config, warnings)) => {
            assert!(!config.fargate.cluster.is_empty() && !config.fargate.subnets.is_empty());
            for warning in warnings {
                assert!(
                    warning.line >= 1 && warning.line <= text.lines().count().max(1),
                    "{warning:?}"
                );
            }
        }
        Err(ConfigError::Several(mistakes)) => {
            assert!(mistakes.len() > 1);
            mistakes.iter().for_each(|mistake| check_mistake(text, mistake));
        }
        Err(mistake) => check_mistake(text, &mistake),
    }
}

/// A mistake is in the text, or a key is missing.
fn check_mistake(text: &str, mistake: &ConfigError) {
    match mistake {
        ConfigError::Wrong { line, column, message, .. } => {
            // The end of a text counts as a line of its own.
            assert!(
                *line >= 1 && *line <= text.lines().count() + 1 && *column >= 1,
                "{line}:{column}: {message}"
            );
            assert!(!message.is_empty());
        }
        ConfigError::Missing { keys, .. } => assert!(!keys.is_empty()),
        other => panic!("{other}"),
    }
}
