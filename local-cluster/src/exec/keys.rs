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

/// What a data key was made for.
pub(crate) type Context = BTreeMap<String, String>;

/// A data key.
#[derive(Debug, Clone)]
pub(crate) struct DataKey {
    /// Its name outside of KMS: what KMS would have encrypted it to.
    pub(crate) blob: Vec<u8>,
    pub(crate) key: [u8; DATA_KEY],
    pub(super) context: Context,
}

/// The data keys that were asked for.
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

    /// As KMS's Decrypt: only with the context that it was made for.
    pub(super) fn find(&self, blob: &[u8], context: &Context) -> Option<DataKey> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().find(|key| key.blob == blob && key.context == *context).cloned()
    }
}
