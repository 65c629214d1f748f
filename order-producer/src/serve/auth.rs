//! API keys: how they look, and whether one is right. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// So that a key is known for what it is where it does not belong: in a log, or in a repository.
const PREFIX: &str = "opk";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scope {
    /// Look at orders.
    #[value(name = "orders:read")]
    Read,
    /// Place, change, pay and cancel orders.
    #[value(name = "orders:write")]
    Write,
}

impl Scope {
    /// The name, as stored.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "orders:read",
            Self::Write => "orders:write",
        }
    }
}

/// A key as its client holds it: `opk_<id>_<secret>`. `Debug` does not print it.
pub(super) struct ApiKey {
    pub(super) id: String,
    secret: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}_{}_…", self.id)
    }
}

impl ApiKey {
    /// A new one, by chance.
    pub(super) fn random() -> Self {
        let mut random = rand::rng();
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        random.fill_bytes(&mut id);
        random.fill_bytes(&mut secret);
        let id = u64::from_be_bytes(id);
        Self { id: format!("{id:016x}"), secret: URL_SAFE_NO_PAD.encode(secret) }
    }

    /// Takes a key apart. What is no key is `None`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '_');
        let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|b| b.is_ascii_hexdigit());
        (prefix == PREFIX && is_id && secret.len() <= 64)
            .then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The whole key, to be shown once.
    pub(super) fn reveal(&self) -> String {
        format!("{PREFIX}_{}_{}", self.id, self.secret)
    }

    /// What the database keeps of the secret.
    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }

    /// Whether its secret is the one of this hash. Takes as long whatever the two have in common.
    pub(super) fn fits(&self, hash: &[u8]) -> bool {
        self.hash().ct_eq(hash).into()
    }
}

/// The key of a header `Authorization: Bearer …`.
pub(super) fn bearer(value: &str) -> Option<ApiKey> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| ApiKey::parse(key.trim()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_fits_its_own_hash_and_no_other() {
        let (key, other) = (ApiKey::random(), ApiKey::random());
        let again = bearer(&format!("Bearer {}", key.reveal())).unwrap();
        assert_eq!(again.id, key.id);
        assert!(again.fits(&key.hash()));
        assert!(!again.fits(&other.hash()));
        assert!(!again.fits(&[]));
        assert!(!again.fits(&key.hash()[..31]));
    }

    #[test]
    fn what_is_no_key_is_refused_and_no_key_is_printed() {
        let key = ApiKey::random();
        let whole = key.reveal();
        for wrong in ["", "Bearer", "Bearer ", "Basic eDp5", "Bearer opk_1_x", "Bearer opk_"] {
            assert!(bearer(wrong).is_none(), "{wrong}");
        }
        assert!(bearer(&whole).is_none());
        assert!(bearer(&format!("Bearer {whole}{whole}")).is_none());
        assert!(!format!("{key:?}").contains(&key.secret));
    }
}
