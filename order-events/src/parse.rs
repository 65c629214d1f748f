//! The payload's JSON to an event, in one pass that allocates nothing but the event.
//!
//! `serde_json` drives hand-written visitors rather than derived ones, because they check each
//! value where it is read, know its JSON pointer without a second parse, and apply the depth
//! limit to unknown fields too (derived code skips those without one).

mod trace;
mod values;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::currency::Currency;
use crate::error::{EventError, FieldError};
use crate::event::{EventKind, OrderEvent, StatusChange};
use crate::limits;
use crate::order::{Item, OrderContent, check_item_count, check_quantity, check_unit_price};
use crate::text::{CustomerId, Sku};

use trace::{Field, Place, Trace};
pub(crate) use trace::{JsonError, describe_mismatch, read_json};
pub(crate) use values::Skipped;
use values::{Integer, Key, OptionalReason, Text, parse_time, parse_uuid};

/// Reads the payload of an event of this kind. `at` is the JSON pointer of the payload itself,
/// for errors: empty where it is the whole value, `/data` within a structured event.
pub fn parse_event(kind: EventKind, json: &[u8], at: &str) -> Result<OrderEvent, EventError> {
    let make = match kind {
        EventKind::Placed => Make::Content(OrderEvent::Placed),
        EventKind::Amended => Make::Content(OrderEvent::Amended),
        EventKind::Paid => Make::Status(OrderEvent::Paid),
        EventKind::Fulfilled => Make::Status(OrderEvent::Fulfilled),
        EventKind::Cancelled => Make::Status(OrderEvent::Cancelled),
    };
    let trace = Trace::new(at);
    read_json(json, EventSeed { make, trace: &trace }).map_err(|error| trace.explain(&error))
}

/// The shape of the payload, by the event that is made of it.
#[derive(Clone, Copy)]
enum Make {
    Content(fn(OrderContent) -> OrderEvent),
    Status(fn(StatusChange) -> OrderEvent),
}

/// Reads the value of `field` into `slot`, once.
fn fill<'de, A: MapAccess<'de>, S: DeserializeSeed<'de>>(
    trace: &Trace<'_>,
    map: &mut A,
    slot: &mut Option<S::Value>,
    seed: S,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(trace.stop_here(FieldError::Invalid(
            "appears more than once; readers disagree on which one counts".to_owned(),
        )));
    }
    *slot = Some(map.next_value_seed(seed)?);
    Ok(())
}

struct EventSeed<'a> {
    make: Make,
    trace: &'a Trace<'a>,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = OrderEvent;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = OrderEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderEvent, A::Error> {
        let Self { make, trace } = self;
        let with_content = matches!(make, Make::Content(_));
        let (mut order_id, mut customer_id, mut reason) = (None, None, None);
        let (mut currency, mut items, mut placed_at) = (None, None, None);
        while let Some(key) = map.next_key_seed(Key)? {
            trace.enter(key);
            match key {
                Some(Field::OrderId) => {
                    fill(trace, &mut map, &mut order_id, Text(trace, "a UUID", parse_uuid))?;
                }
                Some(Field::CustomerId) => {
                    fill(trace, &mut map, &mut customer_id, Text(trace, "text", CustomerId::new))?;
                }
                Some(Field::Currency) if with_content => {
                    let seed = Text(trace, "a currency code", Currency::new);
                    fill(trace, &mut map, &mut currency, seed)?;
                }
                Some(Field::Items) if with_content => {
                    fill(trace, &mut map, &mut items, ItemsSeed(trace))?;
                }
                Some(Field::PlacedAt) if with_content => {
                    fill(trace, &mut map, &mut placed_at, Text(trace, "a time", parse_time))?;
                }
                Some(Field::Reason) if !with_content => {
                    fill(trace, &mut map, &mut reason, OptionalReason(trace))?;
                }
                _ => {
                    trace.enter(None);
                    map.next_value_seed(Skipped)?;
                }
            }
            trace.enter(None);
        }
        let order_id = order_id.ok_or_else(|| trace.missing(Field::OrderId))?;
        let customer_id = customer_id.ok_or_else(|| trace.missing(Field::CustomerId))?;
        let make = match make {
            Make::Status(make) => {
                let reason = reason.flatten();
                return Ok(make(StatusChange { order_id, customer_id, reason }));
            }
            Make::Content(make) => make,
        };
        let currency = currency.ok_or_else(|| trace.missing(Field::Currency))?;
        let items = items.ok_or_else(|| trace.missing(Field::Items))?;
        let placed_at = placed_at.ok_or_else(|| trace.missing(Field::PlacedAt))?;
        OrderContent::new(order_id, customer_id, currency, items, placed_at).map(make).map_err(
            |error| {
                trace.enter(Some(Field::Items));
                trace.stop_here(error)
            },
        )
    }
}

struct ItemsSeed<'a>(&'a Trace<'a>);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = Vec<Item>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Item>, A::Error> {
        let trace = self.0;
        let at_items = trace.place.get();
        let mut items = Vec::new();
        loop {
            trace.place.set(Place { index: Some(items.len()), ..at_items });
            let Some(item) = seq.next_element_seed(ItemSeed(trace))? else { break };
            trace.place.set(at_items);
            items.push(item);
            // Stops at the first item too many, however many follow.
            if items.len() > limits::ITEMS_MAX {
                break;
            }
        }
        trace.place.set(at_items);
        check_item_count(items.len()).map_err(|error| trace.stop_here(error))?;
        Ok(items)
    }
}

struct ItemSeed<'a>(&'a Trace<'a>);

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = Item;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let trace = self.0;
        let (mut sku, mut quantity, mut unit_price) = (None, None, None);
        while let Some(key) = map.next_key_seed(Key)? {
            trace.enter(key);
            match key {
                Some(Field::Sku) => {
                    fill(trace, &mut map, &mut sku, Text(trace, "text", Sku::new))?;
                }
                Some(Field::Quantity) => {
                    fill(trace, &mut map, &mut quantity, Integer(trace, check_quantity))?;
                }
                Some(Field::UnitPriceCents) => {
                    fill(trace, &mut map, &mut unit_price, Integer(trace, check_unit_price))?;
                }
                _ => {
                    trace.enter(None);
                    map.next_value_seed(Skipped)?;
                }
            }
            trace.enter(None);
        }
        Ok(Item::from_checked(
            sku.ok_or_else(|| trace.missing(Field::Sku))?,
            quantity.ok_or_else(|| trace.missing(Field::Quantity))?,
            unit_price.ok_or_else(|| trace.missing(Field::UnitPriceCents))?,
        ))
    }
}
