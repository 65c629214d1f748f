//! What bodies look like, with the limits that the code checks.

use order_events::{Currency, EventKind, Status, limits};
use serde_json::{Value, json};

use crate::serve::code::Code;
use crate::serve::fields::{FieldCode, PROBLEMS_MAX};
use crate::serve::problem::TYPE_PREFIX;
use crate::serve::truth;

pub(super) fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// A customer's id, or a sku.
pub(super) fn id_schema() -> Value {
    json!({
        "type": "string",
        "pattern": format!("^[!-~]{{1,{}}}$", limits::ID_CHARS_MAX),
        "description": format!("1 to {} visible ASCII characters.", limits::ID_CHARS_MAX),
    })
}

pub(super) fn all() -> Value {
    json!({
        "NewOrder": new_order(),
        "OrderContent": order_content(),
        "Item": item(),
        "Reason": reason(),
        "Order": order(),
        "OrderPage": order_page(),
        "PendingEvent": pending_event(),
        "DeadLetter": dead_letter(),
        "Problem": problem(),
        "FieldProblem": field_problem(),
        "Readiness": readiness(),
        "Document": { "type": "object", "required": ["openapi", "paths"] },
    })
}

fn order_content() -> Value {
    let currencies: Vec<&str> = Currency::codes().collect();
    json!({
        "type": "object",
        "description": "An order. An `order_id` may be in it if it is that of the path.",
        "required": ["customer_id", "currency", "items"],
        "properties": {
            "customer_id": id_schema(),
            "currency": { "type": "string", "description": "An active code of ISO 4217.", "enum": currencies },
            "items": { "type": "array", "minItems": 1, "maxItems": limits::ITEMS_MAX,
                "items": reference("Item") },
            "placed_at": { "type": "string", "format": "date-time",
                "description": "When it was placed, in the years 0 to 9999 of UTC. Left out: now, and a \
                    later PUT keeps it." },
        },
        "examples": [{ "customer_id": "c-17", "currency": "EUR",
            "items": [{ "sku": "TEA-1", "quantity": 2, "unit_price_cents": 450 }] }],
    })
}

/// Without an id, which is ours to make.
fn new_order() -> Value {
    let mut schema = order_content();
    schema["description"] = json!("An order. Its id is made by the gateway.");
    schema["properties"]["order_id"] =
        json!({ "not": {}, "description": "Refused; PUT takes an id of yours." });
    schema
}

fn item() -> Value {
    json!({
        "type": "object",
        "required": ["sku", "quantity", "unit_price_cents"],
        "properties": {
            "sku": id_schema(),
            "quantity": { "type": "integer",
                "minimum": limits::QUANTITY_MIN, "maximum": limits::QUANTITY_MAX },
            "unit_price_cents": { "type": "integer",
                "minimum": limits::UNIT_PRICE_CENTS_MIN, "maximum": limits::UNIT_PRICE_CENTS_MAX },
        },
    })
}

fn reason() -> Value {
    json!({
        "type": "object",
        "description": "Why. May be left out, as may the whole body.",
        "properties": {
            "reason": { "type": ["string", "null"], "minLength": 1, "maxLength": limits::REASON_CHARS_MAX,
                "pattern": "^[^\\u0000]*$", "description": "Without U+0000." },
        },
        "examples": [{ "reason": "by card" }],
    })
}

fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

fn order() -> Value {
    let statuses: Vec<&str> = Status::ALL.map(Status::as_str).to_vec();
    let states = [&statuses[..], &[truth::ACCEPTED, truth::DEAD_LETTERED]].concat();
    json!({
        "type": "object",
        "required": ["order_id", "customer_id", "state", "currency", "total_cents", "items", "placed_at",
            "updated_at", "pending", "dead_letters"],
        "properties": {
            "order_id": uuid(),
            "customer_id": id_schema(),
            "state": { "enum": states, "description": "What is the case. `accepted`: it is safe, and has not \
                taken effect yet. `dead_lettered`: it did not take effect; `dead_letters` says why." },
            "accepted_state": { "enum": statuses, "description": "What will be once everything that is \
                pending has taken effect; only while something is." },
            "currency": { "type": "string" },
            "total_cents": { "type": "integer", "minimum": 0 },
            "items": { "type": "array", "items": reference("Item") },
            "placed_at": time("When it was placed."),
            "version": { "type": "integer", "minimum": 0,
                "description": "Counts what was accepted here; 0 or absent of an order that came by another way." },
            "created_at": time("When it was first accepted here."),
            "updated_at": time("When it was last accepted or applied."),
            "pending": { "type": "array", "items": reference("PendingEvent"),
                "description": "Accepted, without an outcome yet." },
            "dead_letters": { "type": "array", "items": reference("DeadLetter"),
                "description": "Accepted, and refused by the consumer." },
        },
    })
}

fn order_page() -> Value {
    json!({
        "type": "object",
        "required": ["orders"],
        "properties": {
            "orders": { "type": "array", "items": reference("Order"), "description": "The newest first." },
            "next_cursor": { "type": "string", "description": "Where the next page begins; not on the last." },
        },
    })
}

fn event_type() -> Value {
    json!({ "enum": EventKind::ALL.map(EventKind::as_str) })
}

fn pending_event() -> Value {
    json!({
        "type": "object",
        "required": ["event", "message_id", "accepted_at"],
        "properties": { "event": event_type(), "message_id": uuid(), "accepted_at": time("When.") },
    })
}

fn dead_letter() -> Value {
    json!({
        "type": "object",
        "required": ["event", "message_id", "code", "reason"],
        "properties": {
            "event": event_type(),
            "message_id": uuid(),
            "code": { "type": "string", "description": "Of the dead letter, such as `wrong_status`." },
            "reason": { "type": "string" },
        },
    })
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "description": "What went wrong, as RFC 9457 has it.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": { "type": "string", "pattern": format!("^{TYPE_PREFIX}[a-z_]+$") },
            "title": { "type": "string", "description": "For people; the same for each code." },
            "status": { "type": "integer" },
            "code": { "enum": codes, "description": "For programs; stable." },
            "detail": { "type": "string", "description": "For people; what it was this time." },
            "errors": { "type": "array", "minItems": 1, "maxItems": PROBLEMS_MAX,
                "items": reference("FieldProblem"), "description": "Each field that can't be used." },
        },
    })
}

fn field_problem() -> Value {
    json!({
        "type": "object",
        "required": ["pointer", "code", "detail"],
        "properties": {
            "pointer": { "type": "string", "description": "The field's place, as a JSON pointer." },
            "code": { "enum": FieldCode::ALL },
            "detail": { "type": "string" },
        },
    })
}

fn readiness() -> Value {
    let causes = json!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["what", "why"],
            "properties": { "what": { "type": "string" }, "why": { "type": "string" } },
        },
    });
    json!({
        "type": "object",
        "required": ["ready", "reasons", "degraded", "outbox"],
        "properties": {
            "ready": { "type": "boolean", "description": "Whether orders are accepted." },
            "reasons": causes,
            "degraded": causes,
            "outbox": {
                "type": "object",
                "description": "What waits to be published.",
                "required": ["rows", "oldest_seconds", "refused"],
                "properties": {
                    "rows": { "type": "integer", "minimum": 0 },
                    "oldest_seconds": { "type": "number", "minimum": 0 },
                    "refused": { "type": "integer", "minimum": 0 },
                },
            },
        },
    })
}
