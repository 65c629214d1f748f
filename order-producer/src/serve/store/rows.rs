//! Rows to what they mean. A row that breaks the contract is an error, never a panic.

use order_events::{Cents, Currency, CustomerId, FieldError, Item, OrderContent, Sku};
use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use super::status_of;
use crate::serve::decide::Standing;
use crate::serve::truth::{Accepted, Applied};

#[derive(Deserialize)]
struct StoredItem {
    sku: String,
    quantity: i64,
    unit_price_cents: i64,
}

pub(super) fn accepted(row: &PgRow) -> Result<Accepted, sqlx::Error> {
    Ok(Accepted {
        standing: standing(row)?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

pub(super) fn applied(row: &PgRow) -> Result<Applied, sqlx::Error> {
    Ok(Applied { standing: standing(row)?, updated_at: row.try_get("updated_at")? })
}

fn standing(row: &PgRow) -> Result<Standing, sqlx::Error> {
    let status = status_of(row.try_get("status")?)?;
    let Json(items): Json<Vec<StoredItem>> = row.try_get("items")?;
    let content = || -> Result<OrderContent, FieldError> {
        let item = |item: StoredItem| {
            Item::new(Sku::new(&item.sku)?, item.quantity, Cents::new(item.unit_price_cents))
        };
        let items = items.into_iter().map(item).collect::<Result<_, _>>()?;
        let decode = |error: sqlx::Error| FieldError::Invalid(error.to_string());
        OrderContent::new(
            row.try_get("order_id").map_err(decode)?,
            CustomerId::new(row.try_get("customer_id").map_err(decode)?)?,
            Currency::new(row.try_get("currency").map_err(decode)?)?,
            items,
            row.try_get("placed_at").map_err(decode)?,
        )
    };
    let content = content().map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Standing { status, content })
}
