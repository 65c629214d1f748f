//! Whether the database fits.

use anyhow::{Context as _, bail};
use idempotent_consumer::identity::IdMode;
use idempotent_consumer::{inspect, migrate};
use sqlx::PgPool;
use sqlx::migrate::Migrator;

/// Where `order-consumer migrate` notes the migrations of the orders' tables.
const TRACKING_TABLE: &str = "_order_migrations";

fn orders() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/orders");
    migrator.dangerous_set_table_name(TRACKING_TABLE);
    migrator
}

/// Refuses a database of another version, and one whose messages are not known by the id that the
/// gateway gives them: nothing could be said of what becomes of an order.
pub(super) async fn check(pool: &PgPool) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    let no_fit = "the database's tables do not fit this program";
    let mut missing = Vec::new();
    for (migrator, table) in
        [(migrate::engine(), migrate::TRACKING_TABLE), (orders(), TRACKING_TABLE)]
    {
        missing.extend(migrate::pending(&migrator, table, &mut connection).await.context(no_fit)?);
    }
    if !missing.is_empty() {
        bail!(
            "the database lacks migrations ({}); run `order-consumer migrate` first",
            missing.join(", ")
        );
    }
    let mode = inspect::id_mode(&mut connection).await?;
    if mode != IdMode::CeId {
        bail!(
            "this database knows messages by {mode}, and the gateway gives them a ce_id; serve \
             needs a database whose consumers run with --message-id-from ce_id"
        );
    }
    Ok(())
}
