//! Data keys: the part of KMS that encrypted sessions need.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use super::cipher::DATA_KEY;

/// The cluster's key, in its `executeCommandConfiguration` and in agents' handshakes.
pub(crate) const KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/local";
/// How many data keys are remembered.
const REMEMBERED: usize = 1000;

/// The context of a data key.
pub(crate) type Context = BTreeMap<String, String>;

/// A data key.
#[derive(Debug, Clone)]
pub(crate) struct DataKey {
    /// Its ciphertext, an opaque name here.
    pub(crate) blob: Vec<u8>,
    pub(crate) key: [u8; DATA_KEY],
    pub(super) context: Context,
}

/// The data keys that were requested.
#[derive(Default)]
pub(crate) struct Keys {
    made: Mutex<VecDeque<DataKey>>,
}

impl Keys {
    pub(crate) fn make(&self, context: Context) -> DataKey {
        let key =
            DataKey { blob: rand::random::<[u8; 32]>().to_vec(), key: rand::random(), context };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() == REMEMBERED {
            made.pop_front();
        }
        made.push_back(key.clone());
        key
    }

    /// Returns the key like KMS's Decrypt: only for its own context.
    pub(super) fn find(&self, blob: &[u8], context: &Context) -> Option<DataKey> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().find(|key| key.blob == blob && key.context == *context).cloned()
    }
}
