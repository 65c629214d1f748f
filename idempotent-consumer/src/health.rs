//! Why the service is or is not ready, for `/readyz` and for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Reasons not to be ready, each under the name of what is concerned.
#[derive(Debug)]
pub struct Health {
    reasons: Mutex<BTreeMap<String, String>>,
}

impl Default for Health {
    fn default() -> Self {
        let starting = ("group".to_owned(), "no partitions assigned yet".to_owned());
        Self { reasons: Mutex::new(BTreeMap::from([starting])) }
    }
}

impl Health {
    /// Of something that waits for no partitions.
    pub(crate) fn without_group() -> Self {
        Self { reasons: Mutex::default() }
    }

    /// `(what, why)` for each thing that stands in the way; empty means ready.
    pub fn reasons(&self) -> Vec<(String, String)> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(what, why)| (what.clone(), why.clone())).collect()
    }

    /// Notes a reason; returns whether it is news.
    pub(crate) fn set(&self, what: &str, why: impl Into<String>) -> bool {
        let why = why.into();
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.insert(what.to_owned(), why.clone()) != Some(why)
    }

    /// The reason is gone; returns whether there was one.
    pub(crate) fn clear(&self, what: &str) -> bool {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).remove(what).is_some()
    }
}
