//! A session's encryption with a data key of KMS (amazon-ssm-agent, `agent/session/crypto`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// The length of a data key: one half for each direction.
pub(super) const DATA_KEY: usize = 64;

/// The agent's end of an encrypted session.
pub(super) struct Cipher {
    /// The client's key for decryption.
    sealing: LessSafeKey,
    /// The client's key for encryption.
    opening: LessSafeKey,
}

/// A payload was not encrypted with the session's key.
#[derive(Debug, thiserror::Error)]
#[error("it was not encrypted with the session's key")]
pub(super) struct WrongKey;

impl Cipher {
    pub(super) fn new(key: &[u8; DATA_KEY]) -> Self {
        let half = |half: &[u8]| {
            #[expect(
                clippy::expect_used,
                reason = "half of a data key has the length of an AES-256 key"
            )]
            let key = UnboundKey::new(&AES_256_GCM, half).expect("32 bytes");
            LessSafeKey::new(key)
        };
        Self { sealing: half(&key[..DATA_KEY / 2]), opening: half(&key[DATA_KEY / 2..]) }
    }

    /// Encrypts; returns nonce, ciphertext and tag.
    pub(super) fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = plain.to_vec();
        #[expect(clippy::expect_used, reason = "fails from 64 GiB on only")]
        self.sealing
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut sealed,
            )
            .expect("a payload is short");
        [&nonce[..], &sealed].concat()
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, WrongKey> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(WrongKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| WrongKey)?;
        let mut plain = sealed.to_vec();
        let length = self
            .opening
            .open_in_place(nonce, Aad::empty(), &mut plain)
            .map_err(|_| WrongKey)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}
