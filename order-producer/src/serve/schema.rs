//! Whether the database fits.

use anyhow::bail;
use idempotent_consumer::identity::IdMode;
use idempotent_consumer::inspect;
use idempotent_consumer::migrate::Migrations;
use sqlx::PgPool;

/// What `order-consumer migrate` applies, and where it notes it.
fn migrations() -> Migrations {
    let orders = sqlx::migrate!("../migrations/orders");
    Migrations::with(orders, "_order_migrations", "order-consumer migrate")
}

/// Refuses a database of another version, and one whose messages are not known by the id that the
/// gateway gives them: nothing could be said of what becomes of an order.
pub(super) async fn check(pool: &PgPool) -> anyhow::Result<()> {
    migrations().check(pool, "the database").await?;
    let mut connection = pool.acquire().await?;
    let mode = inspect::id_mode(&mut connection).await?;
    if mode != IdMode::CeId {
        bail!(
            "this database knows messages by {mode}, and the gateway gives them a ce_id; serve \
             needs a database whose consumers run with --message-id-from ce_id"
        );
    }
    Ok(())
}
