//! Sessions that the cluster encrypts with a KMS key: AES-256-GCM, a key for each direction.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};

/// Length of the KMS data key in bytes: the first half decrypts the agent's payloads, the second
/// encrypts ours.
pub const KEY_BYTES: usize = 64;

/// Both keys of a session.
pub(super) struct Cipher {
    open: LessSafeKey,
    seal: LessSafeKey,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// Splits KMS's data key; `None` unless it has [`KEY_BYTES`].
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        if key.len() != KEY_BYTES {
            return None;
        }
        let (open, seal) = key.split_at(KEY_BYTES / 2);
        let key = |bytes| UnboundKey::new(&AES_256_GCM, bytes).ok().map(LessSafeKey::new);
        Some(Self { open: key(open)?, seal: key(seal)? })
    }

    /// Encrypts; returns nonce, ciphertext and tag.
    pub(super) fn seal(&self, plain: &[u8], nonce: [u8; NONCE_LEN]) -> Option<Bytes> {
        let mut text = plain.to_vec();
        self.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .ok()?;
        let mut sealed = BytesMut::with_capacity(NONCE_LEN + text.len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Some(sealed.freeze())
    }

    /// Decrypts; `None` if the data has another key, or is damaged.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Bytes> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let plain = self
            .open
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut text)
            .ok()?
            .len();
        text.truncate(plain);
        Some(text.into())
    }

    /// The other side's cipher, for tests.
    #[cfg(test)]
    pub(super) fn reversed(key: &[u8]) -> Self {
        let (a, b) = key.split_at(KEY_BYTES / 2);
        Self::new(&[b, a].concat()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_round_trip() {
        let key: Vec<u8> = (0..64).collect();
        let (ours, theirs) = (Cipher::new(&key).unwrap(), Cipher::reversed(&key));
        let sealed = ours.seal(b"hello", [7; 12]).unwrap();
        assert_eq!(sealed.len(), 12 + 5 + 16);
        assert_eq!(theirs.open(&sealed).unwrap(), "hello");
        assert_eq!(ours.open(&sealed), None, "each direction has its own key");
        for at in 0..sealed.len() {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1;
            assert_eq!(theirs.open(&damaged), None);
        }
        assert_eq!(theirs.open(b"short"), None);
        assert!(Cipher::new(&key[..63]).is_none());
    }
}
