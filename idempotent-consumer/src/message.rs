//! The words of this library as types: a record as it lies in Kafka, its identity, its headers.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, Error as _, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What a message is known by, whatever partition or offset it arrives on.
///
/// The primary key of `processed_messages` together with the consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub Uuid);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a message says: a digest of its type, key and value, made by
/// [`identity::fingerprint`](crate::identity::fingerprint).
///
/// Two messages with one [`MessageId`] and different fingerprints are a conflict, not a duplicate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; Fingerprint::LEN]);

impl Fingerprint {
    /// Bytes: one for the version, 32 of SHA-256.
    pub const LEN: usize = 33;

    /// Reads a fingerprint back from the database; `None` if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PartitionKey {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// A record's headers, in their order, repeats and empty values included.
///
/// All of them lie in one buffer, since a consumer makes one of these for every record.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Of each header two lengths, its name and its value.
    bytes: Vec<u8>,
    len: usize,
}

/// What each of the two lengths before a header takes.
const LENGTH: usize = size_of::<u32>();
/// In the place of a value's length if it is null: no record of Kafka has so many bytes.
const NULL: u32 = u32::MAX;

fn len_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).ok().filter(|len| *len < NULL).expect("a header of 4 GiB")
}

/// Cuts a length off.
fn take_len(bytes: &mut &[u8]) -> Option<u32> {
    let (len, rest) = bytes.split_first_chunk::<LENGTH>()?;
    *bytes = rest;
    Some(u32::from_ne_bytes(*len))
}

/// Cuts so many bytes off.
fn take<'a>(bytes: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (start, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(start)
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all headers and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Appends a header; a name may repeat, a value may be null.
    ///
    /// # Panics
    /// Name or value have 4 GiB, which no record can carry.
    pub fn push(&mut self, name: impl AsRef<[u8]>, value: Option<&[u8]>) {
        let name = name.as_ref();
        self.bytes.extend_from_slice(&len_of(name).to_ne_bytes());
        self.bytes.extend_from_slice(&value.map_or(NULL, len_of).to_ne_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.len += 1;
    }

    /// The value of the last header of that name, without regard to ASCII case; `None` if there is
    /// none or its value is null.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let [value] = self.get_each([name]);
        value
    }

    /// What [`get`](Self::get) finds under each of several names, in one walk.
    pub fn get_each<const N: usize>(&self, names: [&str; N]) -> [Option<&[u8]>; N] {
        let mut values = [None; N];
        for (name, value) in self.iter() {
            for (wanted, found) in names.iter().zip(&mut values) {
                if name.eq_ignore_ascii_case(wanted.as_bytes()) {
                    *found = value;
                }
            }
        }
        values
    }

    /// The value of the last header of that name, if it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (name, value) = (take_len(&mut rest)?, take_len(&mut rest)?);
            let name = take(&mut rest, name)?;
            let value = if value == NULL { None } else { Some(take(&mut rest, value)?) };
            Some((name, value))
        })
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all names and values.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() - self.len * 2 * LENGTH
    }

    /// The form in which a database row keeps headers, as a value; see [`Headers::serialize`].
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// The form in which a database row keeps headers, readable by a person and exact:
/// `[{"name": …, "value": …}]` in order, with `name_base64` or `value_base64` in place of what is not
/// text (or holds a NUL, which `jsonb` refuses).
impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter().map(|(name, value)| HeaderJson { name, value }))
    }
}

struct HeaderJson<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        serialize_bytes(&mut map, ["name", "name_base64"], self.name)?;
        if let Some(value) = self.value {
            serialize_bytes(&mut map, ["value", "value_base64"], value)?;
        }
        map.end()
    }
}

fn serialize_bytes<M: SerializeMap>(
    map: &mut M,
    [as_text, as_base64]: [&'static str; 2],
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => map.serialize_entry(as_text, text),
        _ => map.serialize_entry(as_base64, &BASE64.encode(bytes)),
    }
}

/// Reads what [`Headers::serialize`] writes, also where somebody else has written it.
impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_seq(HeaderList)
    }
}

struct HeaderList;

impl<'de> Visitor<'de> for HeaderList {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a list of headers, as [{"name": "…", "value": "…"}]"#)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Headers, A::Error> {
        let mut headers = Headers::new();
        while let Some(header) = list.next_element::<HeaderText<'_>>()? {
            let HeaderText { name, name_base64, value, value_base64 } = header;
            let name =
                bytes_of(name, name_base64)?.ok_or_else(|| A::Error::missing_field("name"))?;
            headers.push(name, bytes_of(value, value_base64)?.as_deref());
        }
        Ok(headers)
    }
}

#[derive(Deserialize)]
struct HeaderText<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    name_base64: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    #[serde(borrow)]
    value_base64: Option<Text<'a>>,
}

/// Borrowed where nothing in it is escaped. Serde's own `Option<Cow>` never is.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A name or value.
fn bytes_of<'a, E: de::Error>(
    text: Option<Text<'a>>,
    base64: Option<Text<'_>>,
) -> Result<Option<Cow<'a, [u8]>>, E> {
    match (text, base64) {
        (Some(Text(Cow::Borrowed(text))), _) => Ok(Some(Cow::Borrowed(text.as_bytes()))),
        (Some(Text(Cow::Owned(text))), _) => Ok(Some(Cow::Owned(text.into_bytes()))),
        (None, Some(Text(base64))) => {
            BASE64.decode(&*base64).map(|bytes| Some(Cow::Owned(bytes))).map_err(E::custom)
        }
        (None, None) => Ok(None),
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| {
                (String::from_utf8_lossy(name), value.map(String::from_utf8_lossy))
            }))
            .finish()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut out = Self::new();
        for (name, value) in headers {
            out.push(name, Some(value.as_ref()));
        }
        out
    }
}

/// A record as it was read from Kafka. A null key or value is not an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Topic and partition it lies in.
    pub source: PartitionKey,
    /// Its place in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, set by the producer or the broker.
    pub timestamp_ms: Option<i64>,
    /// Key, decides the partition and the order.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Headers,
}

impl Record {
    /// What the record takes in memory, near enough for a bound, in bytes.
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD: usize = 256;
        OVERHEAD
            + self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + self.headers.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_names_are_found_without_regard_to_case_and_the_last_one_counts() {
        let mut headers = Headers::new();
        headers.push("CE_ID", Some(b"first"));
        headers.push("ce_id", Some(b"second"));
        headers.push("empty", Some(b""));
        headers.push("null", None);
        assert_eq!(headers.get_str("Ce_Id"), Some("second"));
        assert_eq!(headers.get("empty"), Some(&b""[..]));
        assert_eq!(headers.get("null"), None);
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn what_is_no_list_of_headers_is_refused_with_what_it_should_be() {
        let read = serde_json::from_str::<Headers>;
        let headers = read(r#"[{"name": "a\u0062", "value": null, "more": 1}]"#).unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [(&b"ab"[..], None)]);
        for (text, error) in [
            ("{}", "expected a list of headers"),
            (r#"[{"value": "v"}]"#, "missing field `name`"),
            (r#"[{"name": 1}]"#, "invalid type"),
            (r#"[{"name_base64": "?"}]"#, "Invalid symbol"),
        ] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(error), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn headers_survive_the_round_trip_through_a_row(
            list in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..50))), 0..10)
        ) {
            let mut headers = Headers::new();
            for (name, value) in &list {
                headers.push(name, value.as_deref());
            }
            let row = serde_json::to_string(&headers).unwrap();
            let back: Headers = serde_json::from_str(&row).unwrap();
            prop_assert_eq!(&back, &headers);
            let seen: Vec<_> = back.iter().map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(seen, list);
        }
    }
}
