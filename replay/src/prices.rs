//! The file of prices that `fargate.toml` names, or the built-in prices.

use std::{
    io,
    path::{Path, PathBuf},
};

use diagnosis::costs::{BadPrices, Prices};
use states::private_file;

/// The largest file that is read, in bytes. The built-in prices take some 3,000.
const LARGEST: u64 = 256 * 1024;

/// Why there are no prices.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// The file cannot be read.
    #[error(
        "the file of prices {} cannot be read: {source}. Correct [Fargate] Prices in fargate.toml.",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no file of prices.
    #[error("{}: {source}. docs/costs.md says what a file of prices has.", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadPrices,
    },
}

/// Returns the prices of this file; without one, the built-in ones.
///
/// # Errors
/// [`PricesError`].
pub fn load(file: Option<&Path>) -> Result<Prices, PricesError> {
    let Some(path) = file else { return Ok(Prices::built_in()) };
    let unreadable = |source| PricesError::Unreadable { path: path.to_owned(), source };
    // A link that the administrator names stands for the file that it leads to.
    let real = path.canonicalize().map_err(unreadable)?;
    let bytes = private_file::read_up_to(&real, LARGEST + 1).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        let why = format!("it is larger than {} KiB", LARGEST / 1024);
        return Err(unreadable(io::Error::other(why)));
    }
    let text = String::from_utf8_lossy(&bytes);
    Prices::parse(&text).map_err(|source| PricesError::Bad { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prices.toml");
        let error = load(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("prices.toml") && error.contains("[Fargate] Prices"), "{error}");
        std::fs::write(&file, "currency = \"EUR\"\n").unwrap();
        let error = load(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("prices.toml: line ") && error.contains("published"), "{error}");
        std::fs::write(&file, "currency = \"EUR\"\npublished = \"2026-01-01\"\n[regions]\n")
            .unwrap();
        assert_eq!(load(Some(&file)).unwrap().currency.as_str(), "EUR");
        assert_eq!(load(None).unwrap(), Prices::built_in());
        // A part of a file would have other prices.
        let comment = format!("#{}\n", "x".repeat(300)).repeat(1000);
        std::fs::write(
            &file,
            format!("currency = \"EUR\"\npublished = \"2026-01-01\"\n[regions]\n{comment}"),
        )
        .unwrap();
        let error = load(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("larger than 256 KiB"), "{error}");
    }
}
