//! Messages to begin with, some of them delivered again.

/// Message id, if it has one, and value.
pub(crate) type Sample = (Option<&'static str>, &'static str);

pub(crate) const ELEVATOR: [Sample; 10] = [
    (Some("1"), r#"{"press": 2}"#),
    (Some("1"), r#"{"press": 2}"#),
    (Some("2"), r#"{"press": 5}"#),
    (Some("3"), r#"{"press": 3}"#),
    (Some("3"), r#"{"press": 3}"#),
    (Some("4"), r#"{"arrive": 3}"#),
    (Some("4"), r#"{"arrive": 3}"#),
    (Some("5"), r#"{"press": 7}"#),
    (Some("6"), r#"{"arrive": 7}"#),
    // Late: behind what undid it. The lift goes to the seventh floor for nobody.
    (Some("5"), r#"{"press": 7}"#),
];

pub(crate) const LIKES: [Sample; 8] = [
    (Some("1"), r#"{"user": "ada@x.org", "post": "tea", "like": true}"#),
    (Some("1"), r#"{"user": "ada@x.org", "post": "tea", "like": true}"#),
    (Some("2"), r#"{"user": "bob@x.org", "post": "tea", "like": true}"#),
    // Pressed again, in another spelling: no repeat, and no second like either.
    (Some("3"), r#"{"user": " Ada@x.org", "post": "tea", "like": true}"#),
    (Some("4"), r#"{"user": "bob@x.org", "post": "mud", "like": true}"#),
    (Some("5"), r#"{"user": "ada@x.org", "post": "mud", "like": true}"#),
    (Some("6"), r#"{"user": "ada@x.org", "post": "mud", "like": false}"#),
    // Late: behind what undid it. Only the claim knows that it is old.
    (Some("5"), r#"{"user": "ada@x.org", "post": "mud", "like": true}"#),
];

pub(crate) const TOGGLE: [Sample; 9] = [
    (Some("1"), r#"{"lamp": "hall"}"#),
    (Some("1"), r#"{"lamp": "hall"}"#),
    (Some("2"), r#"{"lamp": "attic"}"#),
    (Some("3"), r#"{"lamp": "attic"}"#),
    (Some("3"), r#"{"lamp": "attic"}"#),
    (Some("4"), r#"{"lamp": "porch", "on": true}"#),
    (Some("4"), r#"{"lamp": "porch", "on": true}"#),
    // One press, sent twice without an id: two messages, as far as anybody can tell.
    (None, r#"{"lamp": "cellar"}"#),
    (None, r#"{"lamp": "cellar"}"#),
];

pub(crate) const CARD_PAYMENTS: [Sample; 6] = [
    (Some("1"), r#"{"payment": "p-1", "card": "visa", "cents": 450}"#),
    (Some("1"), r#"{"payment": "p-1", "card": "visa", "cents": 450}"#),
    (Some("2"), r#"{"payment": "p-2", "card": "empty", "cents": 99900}"#),
    (Some("3"), r#"{"payment": "p-3", "card": "visa", "cents": 800}"#),
    (Some("4"), r#"{"payment": "p-3", "card": "visa", "cents": 800}"#),
    (Some("3"), r#"{"payment": "p-3", "card": "visa", "cents": 800}"#),
];
