//! An order from flags.

use clap::Args;
use idempotent_consumer::cli::WrongUse;
use order_events::{Cents, Currency, CustomerId, FieldError, Item, OrderContent, OrderEvent, Sku};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Identity;

/// The content of an order.
#[derive(Args)]
pub struct OrderArgs {
    /// Customer who orders; events of one customer keep their order
    #[arg(
        long,
        value_name = "ID",
        env = "ORDER_PRODUCER_CUSTOMER",
        hide_env_values = true,
        value_parser = CustomerId::new,
        required_unless_present = "file"
    )]
    customer: Option<CustomerId>,

    /// Item as SKU:QUANTITY:CENTS, such as TEA-1:2:450 for two at 4.50; may be repeated
    #[arg(
        long,
        value_name = "SKU:QUANTITY:CENTS",
        env = "ORDER_PRODUCER_ITEM",
        hide_env_values = true,
        value_parser = parse_item,
        required_unless_present = "file"
    )]
    item: Vec<Item>,

    /// ISO 4217 code of the currency of all prices
    #[arg(
        long,
        value_name = "CODE",
        env = "ORDER_PRODUCER_CURRENCY",
        hide_env_values = true,
        default_value = "EUR",
        value_parser = Currency::new
    )]
    currency: Currency,

    /// Order id; a new version 7 UUID by default
    #[arg(long, value_name = "UUID", env = "ORDER_PRODUCER_ORDER_ID", hide_env_values = true)]
    order_id: Option<Uuid>,

    /// When the order was placed, as 2026-01-03T10:00:00Z; now by default
    #[arg(
        long,
        value_name = "TIME",
        env = "ORDER_PRODUCER_PLACED_AT",
        hide_env_values = true,
        value_parser = parse_time
    )]
    placed_at: Option<OffsetDateTime>,

    /// Under which id, and how many times.
    #[command(flatten)]
    pub(super) identity: Identity,
}

impl OrderArgs {
    pub(super) fn event(&self) -> anyhow::Result<OrderEvent> {
        let customer = self.customer.clone().ok_or_else(|| missing("--customer"))?;
        let content = OrderContent::new(
            self.order_id.unwrap_or_else(Uuid::now_v7),
            customer,
            self.currency,
            self.item.clone(),
            self.placed_at.unwrap_or_else(OffsetDateTime::now_utc),
        )
        .map_err(|error| WrongUse(format!("the order can't be sent: {error}")))?;
        Ok(OrderEvent::Placed(content))
    }
}

fn missing(what: &str) -> WrongUse {
    WrongUse(format!("{what} is missing"))
}

/// Reads `SKU:QUANTITY:CENTS`. A sku may hold colons, so the numbers are taken from the end.
fn parse_item(text: &str) -> Result<Item, FieldError> {
    let form = |what: String| {
        FieldError::Invalid(format!("{what}; write SKU:QUANTITY:CENTS, such as TEA-1:2:450"))
    };
    let mut parts = text.rsplitn(3, ':');
    let (Some(price), Some(quantity), Some(sku)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(form("an item has three parts".to_owned()));
    };
    let number = |name: &str, text: &str| {
        text.parse::<i64>().map_err(|_| form(format!("the {name} {text:?} is no whole number")))
    };
    let quantity = number("quantity", quantity)?;
    let price = number("unit price", price)?;
    let sku = Sku::new(sku).map_err(|error| prefix("the sku ", &error))?;
    Item::new(sku, quantity, Cents::new(price)).map_err(|error| prefix("the number ", &error))
}

fn prefix(what: &str, error: &FieldError) -> FieldError {
    FieldError::Invalid(format!("{what}{error}"))
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("{error}; write RFC 3339 such as 2026-01-03T10:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_sku_quantity_and_cents() {
        let item = parse_item("TEA-1:2:450").unwrap();
        assert_eq!((item.sku().as_str(), item.quantity()), ("TEA-1", 2));
        assert_eq!(item.unit_price(), Cents::new(450));
        assert_eq!(parse_item("a:b:c:1:0").unwrap().sku().as_str(), "a:b:c");
    }

    #[test]
    fn a_wrong_item_says_which_part_and_shows_the_form() {
        for (text, what) in [
            ("TEA-1", "three parts"),
            ("TEA-1:2", "three parts"),
            ("TEA-1:two:450", "quantity \"two\""),
            ("TEA-1:2:4.50", "unit price \"4.50\""),
            ("TEA-1:99999999999999999999:1", "quantity"),
            (":2:450", "sku"),
            ("TEA 1:2:450", "sku"),
            ("TEA-1:0:450", "quantity is 1 to 10000"),
            ("TEA-1:1:-1", "0 to 100000000"),
            ("", "three parts"),
        ] {
            let error = parse_item(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
