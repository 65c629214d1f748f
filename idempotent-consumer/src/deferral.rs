//! Which messages of a batch wait, so that no message overtakes another of its key. Pure.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What keys are compared by: a key may be longer than an index takes. As PostgreSQL keeps it,
/// `retry_queue.key_hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyHash(pub(crate) Uuid);

impl KeyHash {
    /// The first 128 bits of a key's SHA-256.
    pub(crate) fn of(key: &[u8]) -> Self {
        let mut bits = [0; 16];
        bits.copy_from_slice(&Sha256::digest(key)[..16]);
        Self(Uuid::from_bytes(bits))
    }
}

/// A message of a batch, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its key; a message without one waits for no other.
    pub(crate) key: Option<KeyHash>,
    /// It is in the retry queue already: this is another delivery of it.
    pub(crate) queued: bool,
    /// It has failed and is to be tried again later.
    pub(crate) failed: bool,
}

/// Why a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It failed.
    Failed,
    /// An older message of its key waits.
    Behind,
    /// It is in the queue already.
    Queued,
}

/// For each message, in the order of the log, whether it waits. `blocked` are the keys that have
/// something in the retry queue.
pub(crate) fn waits(places: &[Place], blocked: &HashSet<KeyHash>) -> Vec<Option<Wait>> {
    let mut failed: HashSet<KeyHash> = HashSet::new();
    places
        .iter()
        .map(|place| {
            if place.queued {
                return Some(Wait::Queued);
            }
            if place.key.is_some_and(|key| blocked.contains(&key) || failed.contains(&key)) {
                return Some(Wait::Behind);
            }
            if place.failed {
                failed.extend(place.key);
                return Some(Wait::Failed);
            }
            None
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the migration 0013 made of the keys that waited, `SELECT encode(substr(sha256('c-17'), 1,
    /// 16), 'hex')::uuid`: another value, and a key would overtake itself.
    #[test]
    fn a_key_has_the_hash_that_the_database_gave_it() {
        let hash = KeyHash::of(b"c-17").0.to_string();
        assert_eq!(hash, "fcf0a2b6-e3b2-d0a7-69cb-bf8cc4c039ef");
    }

    fn key(n: u8) -> KeyHash {
        KeyHash::of(&[n])
    }

    proptest! {
        #[test]
        fn of_a_key_nothing_goes_on_behind_a_message_that_waits_and_other_keys_are_not_held_up(
            batch in prop::collection::vec((prop::option::of(0_u8..5), any::<bool>(), 0_u8..4), 0..50),
            blocked in prop::collection::hash_set(0_u8..5, 0..3),
        ) {
            let places: Vec<Place> = batch
                .iter()
                .map(|(n, queued, luck)| Place {
                    key: n.map(key),
                    // What is in the queue blocks its key.
                    queued: *queued && n.is_none_or(|n| blocked.contains(&n)),
                    failed: *luck == 0,
                })
                .collect();
            let hashes: HashSet<KeyHash> = blocked.iter().map(|n| key(*n)).collect();
            let waits = waits(&places, &hashes);
            for (at, place) in places.iter().enumerate() {
                let behind = place.key.is_some_and(|key| {
                    hashes.contains(&key)
                        || (0..at).any(|other| places[other].key == Some(key) && waits[other].is_some())
                });
                prop_assert_eq!(waits[at].is_some(), place.queued || place.failed || behind);
                prop_assert_eq!(waits[at] == Some(Wait::Failed), place.failed && !behind && !place.queued);
            }
        }
    }
}
