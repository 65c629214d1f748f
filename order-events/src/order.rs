//! What an order consists of. Fields are private so that an order that exists is within the
//! limits.

use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use crate::currency::Currency;
use crate::error::FieldError;
use crate::limits;
use crate::money::Cents;
use crate::text::{CustomerId, Sku};

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderContent {
    order_id: Uuid,
    customer_id: CustomerId,
    currency: Currency,
    items: Vec<Item>,
    placed_at: OffsetDateTime,
    total: Cents,
}

impl OrderContent {
    /// Checks the number of items and computes the total. `placed_at` is kept in UTC and cut to
    /// microseconds, the precision of PostgreSQL, so that content read back compares as equal.
    pub fn new(
        order_id: Uuid,
        customer_id: CustomerId,
        currency: Currency,
        items: Vec<Item>,
        placed_at: OffsetDateTime,
    ) -> Result<Self, FieldError> {
        check_item_count(items.len())?;
        let total = total_of(items.iter().map(|item| (item.quantity, item.unit_price)))?;
        let placed_at = storable_time(placed_at)?;
        Ok(Self { order_id, customer_id, currency, items, placed_at, total })
    }

    /// The order.
    pub fn order_id(&self) -> Uuid {
        self.order_id
    }

    /// Whose order it is.
    pub fn customer_id(&self) -> &CustomerId {
        &self.customer_id
    }

    /// The currency of all prices of the order.
    pub fn currency(&self) -> &Currency {
        &self.currency
    }

    /// The items, at least one.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// When it was placed: UTC, whole microseconds.
    pub fn placed_at(&self) -> OffsetDateTime {
        self.placed_at
    }

    /// The sum of quantity times unit price.
    pub fn total(&self) -> Cents {
        self.total
    }
}

pub(crate) fn check_item_count(count: usize) -> Result<(), FieldError> {
    if count == 0 || count > limits::ITEMS_MAX {
        return Err(FieldError::Limit(format!(
            "has {} items; an order has 1 to {}",
            if count > limits::ITEMS_MAX {
                format!("more than {}", limits::ITEMS_MAX)
            } else {
                count.to_string()
            },
            limits::ITEMS_MAX
        )));
    }
    Ok(())
}

/// The sum of quantity times unit price, or [`FieldError::Overflow`].
fn total_of(lines: impl IntoIterator<Item = (u32, Cents)>) -> Result<Cents, FieldError> {
    lines
        .into_iter()
        .try_fold(Cents::ZERO, |sum, (quantity, price)| {
            sum.checked_add(price.checked_mul(quantity)?)
        })
        .ok_or(FieldError::Overflow)
}

/// The instant in UTC and whole microseconds, if its year can be written as RFC 3339.
pub(crate) fn storable_time(instant: OffsetDateTime) -> Result<OffsetDateTime, FieldError> {
    instant
        .checked_to_offset(UtcOffset::UTC)
        .filter(|utc| (0..=9999).contains(&utc.year()))
        .and_then(|utc| utc.replace_microsecond(utc.microsecond()).ok())
        .ok_or_else(|| FieldError::Limit("is outside the years 0 to 9999 in UTC".to_owned()))
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    sku: Sku,
    quantity: u32,
    unit_price: Cents,
}

impl Item {
    /// Checks quantity and price.
    pub fn new(sku: Sku, quantity: i64, unit_price: Cents) -> Result<Self, FieldError> {
        Ok(Self {
            sku,
            quantity: check_quantity(quantity)?,
            unit_price: check_unit_price(unit_price.get())?,
        })
    }

    /// Of a quantity and a price that were checked where they were read.
    pub(crate) fn from_checked(sku: Sku, quantity: u32, unit_price: Cents) -> Self {
        Self { sku, quantity, unit_price }
    }

    /// What is ordered.
    pub fn sku(&self) -> &Sku {
        &self.sku
    }

    /// How many, at least one.
    pub fn quantity(&self) -> u32 {
        self.quantity
    }

    /// The price of one.
    pub fn unit_price(&self) -> Cents {
        self.unit_price
    }
}

pub(crate) fn check_quantity(quantity: i64) -> Result<u32, FieldError> {
    let limits = limits::QUANTITY_MIN..=limits::QUANTITY_MAX;
    u32::try_from(quantity).ok().filter(|_| limits.contains(&quantity)).ok_or_else(|| {
        FieldError::Limit(format!(
            "is {quantity}; a quantity is {} to {}",
            limits.start(),
            limits.end()
        ))
    })
}

pub(crate) fn check_unit_price(cents: i64) -> Result<Cents, FieldError> {
    let limits = limits::UNIT_PRICE_CENTS_MIN..=limits::UNIT_PRICE_CENTS_MAX;
    if limits.contains(&cents) {
        Ok(Cents::new(cents))
    } else {
        Err(FieldError::Limit(format!(
            "is {cents}; a unit price is {} to {} cents",
            limits.start(),
            limits.end()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_that_does_not_fit_is_an_overflow_not_a_wrong_sum() {
        let half = Cents::new(i64::MAX / 2 + 1);
        assert_eq!(total_of([(1, half), (1, half)]), Err(FieldError::Overflow));
        assert_eq!(total_of([(2, half)]), Err(FieldError::Overflow));
        assert_eq!(total_of([(1, half), (1, Cents::new(i64::MAX / 2))]), Ok(Cents::new(i64::MAX)));
    }

    #[test]
    fn the_largest_order_within_the_limits_has_a_total() {
        let item = Item::new(
            Sku::new("GOLD").unwrap(),
            limits::QUANTITY_MAX,
            Cents::new(limits::UNIT_PRICE_CENTS_MAX),
        )
        .unwrap();
        let order = OrderContent::new(
            Uuid::nil(),
            CustomerId::new("c").unwrap(),
            Currency::new("EUR").unwrap(),
            vec![item; limits::ITEMS_MAX],
            OffsetDateTime::UNIX_EPOCH,
        );
        assert_eq!(order.unwrap().total(), Cents::new(100_000_000_000_000));
    }

    #[test]
    fn times_are_kept_in_utc_with_microseconds() {
        let time = time::macros::datetime!(2026-01-03 12:00:00.123456789 +2);
        let kept = storable_time(time).unwrap();
        assert_eq!(kept, time::macros::datetime!(2026-01-03 10:00:00.123456 UTC));
    }

    #[test]
    fn a_time_that_leaves_the_calendar_in_utc_is_refused_without_panic() {
        let time = time::macros::datetime!(9999-12-31 23:59:59 -23:59);
        assert!(matches!(storable_time(time), Err(FieldError::Limit(_))));
    }
}
