//! A text or number at a place of a JSON value, read without building the value. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON pointer (RFC 6901) to something inside of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer {
    text: String,
    /// Names or indices, unescaped; at least one.
    tokens: Vec<String>,
}

/// A text that is no [`JsonPointer`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a JSON pointer like /order/id, in which ~1 stands for a slash and ~0 for a tilde"
)]
pub struct PointerError;

impl FromStr for JsonPointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        let tokens = text.strip_prefix('/').ok_or(PointerError)?;
        if tokens.contains(char::is_control) {
            return Err(PointerError);
        }
        let tokens = tokens.split('/').map(unescape).collect::<Option<_>>().ok_or(PointerError)?;
        Ok(Self { text: text.to_owned(), tokens })
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonPointer {
    /// The text there, or a number as it is written there. `None` for anything else, and where the
    /// value is not JSON. Of members of one name the last counts.
    pub(super) fn text_in<'a>(&self, json: &'a [u8]) -> Option<Cow<'a, str>> {
        let mut value = serde_json::Deserializer::from_slice(json);
        let found = Seek(&self.tokens).deserialize(&mut value).ok()?;
        value.end().ok()?;
        let found = found?.get();
        match found.as_bytes().first()? {
            b'"' => serde_json::from_str(found).ok().map(Cow::Owned),
            b'-' | b'0'..=b'9' => Some(Cow::Borrowed(found)),
            _ => None,
        }
    }
}

/// Of an escaped token.
fn unescape(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        out.push_str(&part[1..]);
    }
    Some(out)
}

/// The number of an array's element: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let is_index = token.bytes().all(|byte| byte.is_ascii_digit())
        && (token == "0" || !token.starts_with('0'));
    if is_index { token.parse().ok() } else { None }
}

/// Reads a value, and keeps what is at the end of these tokens.
struct Seek<'t>(&'t [String]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((name, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(name))? {
            if is_it {
                found = map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        if let Some(index) = index(token) {
            let mut before = 0;
            while before < index && seq.next_element::<IgnoredAny>()?.is_some() {
                before += 1;
            }
            found = seq.next_element_seed(Seek(rest))?.flatten();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    // Nothing is inside of a scalar.
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a member's name is this one.
struct Is<'t>(&'t str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn found(pointer: &str, json: &[u8]) -> Option<String> {
        pointer.parse::<JsonPointer>().unwrap().text_in(json).map(Cow::into_owned)
    }

    #[test]
    fn the_examples_of_rfc_6901_are_found() {
        let document = br#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,
                            "i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        let expected = [
            ("/foo/0", "bar"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ];
        for (pointer, text) in expected {
            assert_eq!(found(pointer, document).as_deref(), Some(text), "{pointer}");
        }
        for pointer in ["/foo", "/foo/2", "/foo/-", "/foo/00", "/foo/+0", "/foo/0/0", "/m~01n"] {
            assert_eq!(found(pointer, document), None, "{pointer}");
        }
    }

    #[test]
    fn a_number_is_its_text_so_that_no_two_of_any_length_are_one() {
        let of = |number: &str| found("/id", format!(r#"{{"id": {number} }}"#).as_bytes());
        for number in
            ["7", "-7", "12345678901234567890123", "12345678901234567890124", "1.0", "1E999"]
        {
            assert_eq!(of(number).as_deref(), Some(number));
        }
        for other in ["null", "true", "[7]", r#"{"id":7}"#] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(of(r#""\u0041\n\u00e4""#).as_deref(), Some("A\nä"));
    }

    #[test]
    fn of_members_of_one_name_the_last_counts() {
        assert_eq!(found("/a", br#"{"a":1,"a":2}"#).as_deref(), Some("2"));
        assert_eq!(found("/a/b", br#"{"a":{"b":1},"a":7}"#), None);
    }

    #[test]
    fn what_is_not_json_from_beginning_to_end_has_no_id() {
        let whole = br#"{"id":"7","x":[1,{"y":null}]}"#;
        assert_eq!(found("/id", whole).as_deref(), Some("7"));
        for end in 0..whole.len() {
            assert_eq!(found("/id", &whole[..end]), None);
        }
        for broken in [&b"{\"id\":\"7\"}x"[..], b"{\"id\":\"\xff\"}", b"{\"id\":\"\\ud800\"}", b"7"]
        {
            assert_eq!(found("/id", broken), None);
        }
        let deep = [&b"{\"deep\":"[..], &b"[".repeat(10_000), &b"]".repeat(10_000)].concat();
        assert_eq!(found("/id", &deep), None);
        assert_eq!(found(&"/0".repeat(10_000), &deep), None);
        let beside = [&deep[..], b",\"id\":\"7\"}"].concat();
        assert_eq!(found("/id", &beside).as_deref(), Some("7"), "however deep its neighbours are");
    }

    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a~/0-2]{0,2}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_parsed_value_has_there(
            json in arbitrary_json(),
            tokens in prop::collection::vec("(a|~0|~1|0|1|2|-){0,2}", 1..4),
        ) {
            let pointer = format!("/{}", tokens.join("/"));
            let expected = json.pointer(&pointer).and_then(|value| match value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
            prop_assert_eq!(found(&pointer, json.to_string().as_bytes()), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = found("/a/0", &bytes);
            let _ = found("/", &json!({ "": String::from_utf8_lossy(&bytes) }).to_string().into_bytes());
        }
    }
}
