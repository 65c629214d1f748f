//! The body of a request to what it asks for, with every problem it has and where. Pure.

use order_events::limits;
use order_events::{Cents, Currency, CustomerId, Item, OrderContent, Reason, Sku};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::fields::{FieldCode, FieldProblem, Fields, Problems, problem};
use super::json::Json;

/// Why a body can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    NotJson(String),
    Fields(Vec<FieldProblem>),
}

/// An order as a client describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draft {
    pub(super) customer_id: CustomerId,
    pub(super) currency: Currency,
    pub(super) items: Vec<Item>,
    pub(super) placed_at: Option<OffsetDateTime>,
}

impl Draft {
    /// The content of an order of this id, placed at this time where the client names none.
    pub(super) fn content(
        self,
        order_id: Uuid,
        otherwise: OffsetDateTime,
    ) -> Result<OrderContent, BodyError> {
        let placed_at = self.placed_at.unwrap_or(otherwise);
        OrderContent::new(order_id, self.customer_id, self.currency, self.items, placed_at)
            // Items were checked, and their total fits by their limits.
            .map_err(|error| BodyError::Fields(vec![problem("/placed_at".to_owned(), &error)]))
    }
}

/// Whose id an order gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderId {
    /// Ours.
    Made,
    /// The client's, as the path has it.
    Given(Uuid),
}

/// Reads an order.
pub(super) fn read_order(bytes: &[u8], id: OrderId) -> Result<Draft, BodyError> {
    let mut problems = Problems::default();
    let body = Json::read(bytes).map_err(BodyError::NotJson)?;
    let Some(mut fields) = Fields::of(body, "", &mut problems) else { return Err(problems.into()) };
    if let Some(value) = fields.take("order_id", &mut problems) {
        check_order_id(&value, id, &mut problems);
    }
    let customer_id = fields.text("customer_id", CustomerId::new, &mut problems);
    let currency = fields.text("currency", Currency::new, &mut problems);
    let placed_at = match fields.take("placed_at", &mut problems) {
        None => None,
        Some(Json::Text(text)) => {
            let parsed = OffsetDateTime::parse(&text, &Rfc3339);
            if parsed.is_err() {
                let form = "is not a time in RFC 3339 such as 2026-01-03T10:00:00Z";
                problems.add("/placed_at", FieldCode::InvalidField, form);
            }
            parsed.ok()
        }
        Some(other) => problems.wrong_kind("/placed_at", "a time in quotes", &other),
    };
    let items = match fields.take("items", &mut problems) {
        None => problems.missing("/items"),
        Some(Json::Array(values)) => Some(read_items(values, &mut problems)),
        Some(other) => problems.wrong_kind("/items", "an array of items", &other),
    };
    match (customer_id, currency, items) {
        (Some(customer_id), Some(currency), Some(items)) if problems.0.is_empty() => {
            Ok(Draft { customer_id, currency, items, placed_at })
        }
        _ => Err(problems.into()),
    }
}

/// Reads the body of a change of status: nothing, or an object that may give a reason.
pub(super) fn read_reason(bytes: &[u8]) -> Result<Option<Reason>, BodyError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut problems = Problems::default();
    let body = Json::read(bytes).map_err(BodyError::NotJson)?;
    let Some(mut fields) = Fields::of(body, "", &mut problems) else { return Err(problems.into()) };
    let reason = match fields.take("reason", &mut problems) {
        None | Some(Json::Null) => None,
        Some(Json::Text(text)) => problems.take(Reason::new(&text), "/reason"),
        Some(other) => problems.wrong_kind("/reason", "text or null", &other),
    };
    if problems.0.is_empty() { Ok(reason) } else { Err(problems.into()) }
}

fn check_order_id(value: &Json, id: OrderId, problems: &mut Problems) {
    match (value, id) {
        (_, OrderId::Made) => {
            let hint = "is made by the server; use PUT /v1/orders/{order_id} for an id of your own";
            problems.add("/order_id", FieldCode::InvalidField, hint);
        }
        (Json::Text(text), OrderId::Given(id)) if Uuid::try_parse(text) == Ok(id) => {}
        (_, OrderId::Given(id)) => {
            let detail = format!("is not the {id} of the path; leave it out");
            problems.add("/order_id", FieldCode::InvalidField, detail);
        }
    }
}

fn read_items(values: Vec<Json>, problems: &mut Problems) -> Vec<Item> {
    if values.is_empty() || values.len() > limits::ITEMS_MAX {
        let detail = format!("has {} items; an order has 1 to {}", values.len(), limits::ITEMS_MAX);
        problems.add("/items", FieldCode::LimitExceeded, detail);
        return Vec::new();
    }
    let item = |(index, value)| read_item(value, &format!("/items/{index}"), problems);
    values.into_iter().enumerate().filter_map(item).collect()
}

fn read_item(value: Json, at: &str, problems: &mut Problems) -> Option<Item> {
    let mut fields = Fields::of(value, at, problems)?;
    let sku = fields.text("sku", Sku::new, problems);
    let quantity = fields.integer("quantity", problems);
    let price = fields.integer("unit_price_cents", problems).map(Cents::new);
    // Each number is checked beside one that is right, so that both can be found wrong.
    let any = Sku::new("x").ok()?;
    let quantity = quantity.filter(|quantity| {
        let checked = Item::new(any.clone(), *quantity, Cents::ZERO);
        problems.take(checked, &format!("{at}/quantity")).is_some()
    });
    let price = price.filter(|price| {
        let checked = Item::new(any.clone(), limits::QUANTITY_MIN, *price);
        problems.take(checked, &format!("{at}/unit_price_cents")).is_some()
    });
    Item::new(sku?, quantity?, price?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fields::PROBLEMS_MAX;

    const ORDER: &str = r#"{"customer_id":"c-17","currency":"EUR",
        "items":[{"sku":"TEA-1","quantity":2,"unit_price_cents":450}]}"#;

    fn problems(json: &str) -> Vec<(String, FieldCode)> {
        match read_order(json.as_bytes(), OrderId::Made) {
            Err(BodyError::Fields(all)) => all.into_iter().map(|p| (p.pointer, p.code)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_order_is_a_customer_a_currency_and_items() {
        let draft = read_order(ORDER.as_bytes(), OrderId::Made).unwrap();
        assert_eq!((draft.customer_id.as_str(), draft.items.len()), ("c-17", 1));
        let content = draft.content(Uuid::nil(), OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(content.total().get(), 900);
        assert_eq!(content.placed_at(), OffsetDateTime::UNIX_EPOCH);
    }

    #[test]
    fn every_field_that_is_wrong_is_named_by_its_place() {
        let wrong = r#"{"order_id":"x","customer_id":"a b","currency":7,"placed_at":"today","items":[
            {"sku":"","quantity":0,"unit_price_cents":-1},
            {"quantity":1.5,"unit_price_cents":"2","sku":"A","sku":"B"},
            []]}"#;
        let found = problems(wrong);
        let found: Vec<(&str, FieldCode)> =
            found.iter().map(|(at, code)| (at.as_str(), *code)).collect();
        assert_eq!(
            found,
            [
                ("/order_id", FieldCode::InvalidField),
                ("/customer_id", FieldCode::InvalidField),
                ("/currency", FieldCode::InvalidField),
                ("/placed_at", FieldCode::InvalidField),
                ("/items/0/sku", FieldCode::LimitExceeded),
                ("/items/0/quantity", FieldCode::LimitExceeded),
                ("/items/0/unit_price_cents", FieldCode::LimitExceeded),
                ("/items/1/sku", FieldCode::InvalidField),
                ("/items/1/quantity", FieldCode::InvalidField),
                ("/items/1/unit_price_cents", FieldCode::InvalidField),
                ("/items/2", FieldCode::InvalidField),
            ]
        );
        let missing = [("/customer_id"), ("/currency"), ("/items")];
        let found: Vec<String> = problems("{}").into_iter().map(|(at, _)| at).collect();
        assert_eq!(found, missing);
        assert_eq!(problems("[]"), [(String::new(), FieldCode::InvalidField)]);
    }

    #[test]
    fn problems_without_number_are_listed_up_to_a_limit() {
        let items = vec!["7"; limits::ITEMS_MAX].join(",");
        let json = format!(r#"{{"customer_id":"c","currency":"EUR","items":[{items}]}}"#);
        assert_eq!(problems(&json).len(), PROBLEMS_MAX);
        let items = vec!["7"; limits::ITEMS_MAX + 1].join(",");
        let json = format!(r#"{{"customer_id":"c","currency":"EUR","items":[{items}]}}"#);
        assert_eq!(problems(&json), [("/items".to_owned(), FieldCode::LimitExceeded)]);
    }

    #[test]
    fn an_id_in_the_body_has_to_be_that_of_the_path() {
        let id = Uuid::from_u128(7);
        let with = |id: Uuid| ORDER.replacen('{', &format!("{{\"order_id\":\"{id}\","), 1);
        assert!(read_order(with(id).as_bytes(), OrderId::Given(id)).is_ok());
        assert!(read_order(with(Uuid::nil()).as_bytes(), OrderId::Given(id)).is_err());
    }

    #[test]
    fn a_time_outside_the_calendar_is_a_problem_of_its_field() {
        let text = ORDER.replacen('{', r#"{"placed_at":"9999-12-31T23:59:59-23:00","#, 1);
        let draft = read_order(text.as_bytes(), OrderId::Made).unwrap();
        let Err(BodyError::Fields(found)) = draft.content(Uuid::nil(), OffsetDateTime::UNIX_EPOCH)
        else {
            panic!("it was taken")
        };
        assert_eq!(found[0].pointer, "/placed_at");
    }

    #[test]
    fn a_reason_may_be_left_out() {
        assert_eq!(read_reason(b""), Ok(None));
        assert_eq!(read_reason(b"{}"), Ok(None));
        assert_eq!(read_reason(br#"{"reason":"late"}"#), Ok(Some(Reason::new("late").unwrap())));
        assert!(matches!(read_reason(br#"{"reason":7}"#), Err(BodyError::Fields(_))));
        assert!(matches!(read_reason(b"late"), Err(BodyError::NotJson(_))));
    }
}
