//! The job's key pair: Ed25519, made in microseconds, one per job.

use std::path::Path;

use russh::keys::{Algorithm, PrivateKey, ssh_key::LineEnding};
use states::{ConnectCause, ConnectError, ConnectErrorKind, private_file};

/// Bytes of a key file that are read.
const LONGEST: u64 = 64 * 1024;

/// A key pair in OpenSSH's formats.
pub struct KeyPair {
    /// The private half, as a key file's text. Secret.
    pub private: String,
    /// The public half, as a line of `authorized_keys`.
    pub public: String,
}

/// Why no key could be made.
#[derive(Debug, thiserror::Error)]
#[error("the job's SSH key cannot be made: {0}")]
pub struct KeyError(String);

/// Generates a new pair from the system's random numbers.
///
/// # Errors
/// When the operating system returns no random numbers.
pub fn generate() -> Result<KeyPair, KeyError> {
    let fail = |e: russh::keys::ssh_key::Error| KeyError(e.to_string());
    let mut key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(fail)?;
    key.set_comment("fargate-driver");
    let private = key.to_openssh(LineEnding::LF).map_err(fail)?.to_string();
    let public = key.public_key().to_openssh().map_err(fail)?;
    Ok(KeyPair { private, public })
}

/// Reads a private key's file.
pub(super) fn read(path: &Path) -> Result<PrivateKey, ConnectError> {
    let unusable = |why: String| {
        super::errors::error(
            ConnectErrorKind::KeyUnusable,
            ConnectCause::General,
            format!("the job's private key {} cannot be used: {why}", path.display()),
        )
    };
    let text = private_file::read_up_to(path, LONGEST).map_err(|e| unusable(e.to_string()))?;
    PrivateKey::from_openssh(text).map_err(|e| unusable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_pairs_round_trip() {
        let pair = generate().unwrap();
        assert!(
            pair.public.starts_with("ssh-ed25519 AAAA") && pair.public.ends_with(" fargate-driver"),
            "{}",
            pair.public
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &pair.private).unwrap();
        assert_eq!(read(file.path()).unwrap().public_key().to_openssh().unwrap(), pair.public);
        assert_ne!(generate().unwrap().public, pair.public);
    }

    #[test]
    fn an_unusable_key_is_explained() {
        let missing = read(Path::new("/does/not/exist")).unwrap_err();
        assert_eq!(missing.kind, ConnectErrorKind::KeyUnusable);
        assert!(missing.message.contains("/does/not/exist"));
    }
}
