//! The proof that a host key is the task's own, at first contact.
//!
//! The container gets a secret in its environment ([`VARIABLE`]). Its entry point makes a host key
//! and an HMAC of it under that secret. It puts the HMAC into the server's identification string,
//! the first line that an SSH server sends (RFC 4253, section 4.2):
//!
//! ```text
//! SSH-2.0-OpenSSH_9.6 fargate-host-proof=1:<HMAC-SHA256(secret, "fargate-host-proof=1 ssh-ed25519 AAAA…"), hexadecimal>
//! ```
//!
//! The driver checks it when the key exchange has shown that the server has that host key, before
//! it sends anything else. Another server cannot make a proof without the secret, nor use this one
//! without the host key's private half. `deploy/ssh-entrypoint.sh` is the other side.

use std::path::Path;

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use russh::keys::PrivateKey;
use states::{ConnectCause, ConnectError, ConnectErrorKind};

/// The container's environment variable with the secret.
pub const VARIABLE: &str = "FARGATE_HOST_PROOF_KEY";
/// The label of a proof in an identification string.
const LABEL: &str = "fargate-host-proof=1";
/// The context of the secret's derivation; another use of the job's key must have another text.
const PURPOSE: &[u8] = b"fargate-driver: secret of host proofs, 1";

/// The secret of one job. It is derived from the job's private key, so it needs no file of its own
/// and disappears with the key. The secret does not reveal the key.
pub(super) struct Secret([u8; 32]);

/// The result of a proof's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Missing,
    Wrong,
    Right,
}

/// Returns the secret for the job with this private key, as the container gets it: 64 hexadecimal
/// digits.
///
/// # Errors
/// When the key file cannot be used.
pub fn secret(key: &Path) -> Result<String, ConnectError> {
    let private = super::key::read(key)?;
    Ok(hex::encode(Secret::of(&private)?.0))
}

impl Secret {
    pub(super) fn of(private: &PrivateKey) -> Result<Self, ConnectError> {
        let seed =
            private.key_data().ed25519().map(|pair| pair.private.to_bytes()).ok_or_else(|| {
                super::errors::error(
                    ConnectErrorKind::KeyUnusable,
                    ConnectCause::General,
                    "the job's private key is not an Ed25519 key, as this driver makes them"
                        .to_owned(),
                )
            })?;
        let derived = hmac::sign(&Key::new(HMAC_SHA256, &seed), PURPOSE);
        let mut secret = [0; 32];
        secret.copy_from_slice(derived.as_ref());
        Ok(Self(secret))
    }

    /// Checks the proof in `identification`, of a server that has this host key (`ssh-ed25519
    /// AAAA…`).
    pub(super) fn check(&self, identification: &[u8], host_key: &str) -> Proof {
        let identification = String::from_utf8_lossy(identification);
        let mut shown = identification
            .split(' ')
            .filter_map(|word| word.strip_prefix(LABEL)?.strip_prefix(':'));
        let Some(proof) = shown.next() else { return Proof::Missing };
        let key = Key::new(HMAC_SHA256, &self.0);
        let is_right = hex::decode(proof).is_ok_and(|proof| {
            hmac::verify(&key, format!("{LABEL} {host_key}").as_bytes(), &proof).is_ok()
        });
        if is_right && shown.next().is_none() { Proof::Right } else { Proof::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYzUmhVaGVzUmhVaGVzUmhVaGVzUmhVaGVzUmhVaGVz";

    /// Computed by OpenSSL: `printf %s "fargate-host-proof=1 $key" | openssl dgst -sha256 -mac HMAC
    /// -macopt hexkey:0101…01`.
    const PROOF: &str = "f210bd8c78d850afff64454a6ae5940caebca26113df38f48a5b1db03c86024b";

    #[test]
    fn a_proof_is_valid_for_one_host_key_and_secret() {
        let check = |secret: u8, identification: &str, host_key: &str| {
            Secret([secret; 32]).check(identification.as_bytes(), host_key)
        };
        let shown = format!("SSH-2.0-OpenSSH_9.6p1 Debian-5 fargate-host-proof=1:{PROOF}");
        assert_eq!(check(1, &shown, HOST_KEY), Proof::Right);
        assert_eq!(check(2, &shown, HOST_KEY), Proof::Wrong);
        assert_eq!(check(1, &shown, &HOST_KEY.replace("GYz", "GYy")), Proof::Wrong);
        assert_eq!(check(1, "SSH-2.0-OpenSSH_9.6p1 Debian-5", HOST_KEY), Proof::Missing);
        for wrong in ["", "00", &PROOF[1..], &format!("{PROOF}00"), "é".repeat(32).as_str()] {
            assert_eq!(
                check(1, &format!("SSH-2.0-x fargate-host-proof=1:{wrong}"), HOST_KEY),
                Proof::Wrong,
                "{wrong}"
            );
        }
        assert_eq!(
            check(1, &format!("{shown} fargate-host-proof=1:{}", "00".repeat(32)), HOST_KEY),
            Proof::Wrong,
            "one proof only"
        );
    }

    #[test]
    fn the_secret_is_stable_and_differs_between_jobs() {
        let file = |pair: &crate::ssh::key::KeyPair| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &pair.private).unwrap();
            file
        };
        let (one, other) =
            (crate::ssh::key::generate().unwrap(), crate::ssh::key::generate().unwrap());
        let (one, other) = (file(&one), file(&other));
        let of_one = secret(one.path()).unwrap();
        assert_eq!((of_one.len(), &of_one), (64, &secret(one.path()).unwrap()));
        assert_ne!(of_one, secret(other.path()).unwrap());
    }
}
