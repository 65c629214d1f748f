//! The engine against real Kafka and PostgreSQL, with handlers that behave well and badly.

// Only functions marked as tests are exempt by clippy.toml; these are their helpers.
#![allow(clippy::unwrap_used)]
// Each use case brings what they share.
#![allow(clippy::duplicate_mod)]

mod example;
mod handlers;
mod idempotence;
mod retries;
mod support;
mod suspects;
mod use_cases;

// The use cases themselves, so that what is proved is what a reader copies.
#[allow(dead_code)]
#[path = "../../examples/card_payment.rs"]
mod card_payment;
#[allow(dead_code)]
#[path = "../../examples/elevator.rs"]
mod elevator;
#[allow(dead_code)]
#[path = "../../examples/likes.rs"]
mod likes;
#[allow(dead_code)]
#[path = "../../examples/toggle.rs"]
mod toggle;
