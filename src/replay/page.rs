//! Self-contained pages.

use super::show::Tale;

/// A job's page.
#[must_use]
pub fn job(_tale: &Tale) -> String {
    String::new()
}
