//! The textbook's table: one row a message, its primary key the judge, in the transaction of the
//! effect. A second consumer waits at the INSERT until it is known what becomes of the first.

use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::{Connection as _, PgConnection};

pub(crate) const DDL: &str = "
CREATE TABLE processed_messages (
    message_id   text PRIMARY KEY,
    processed_at timestamptz NOT NULL DEFAULT now()
)";

pub(crate) struct TextbookClaim;

/// Whether the message is ours: nobody has committed a claim of it.
pub(crate) async fn claim(db: &mut PgConnection, message_id: &str) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query(
        "INSERT INTO processed_messages (message_id) VALUES ($1) ON CONFLICT DO NOTHING",
    )
    .bind(message_id)
    .execute(db)
    .await?;
    Ok(claimed.rows_affected() > 0)
}

impl Strategy for TextbookClaim {
    const NAME: &'static str = "textbook-claim";
    const WHAT: &'static str = "claims each id by a primary key, in the transaction of the effect";
    const DDL: &'static str = DDL;
    const STEPS: &'static [&'static str] = &["after_claim", "after_effect", "after_commit"];
    const UNDER_LOCK: &'static [&'static str] = &["after_claim", "after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        if claim(&mut transaction, &order.message_id).await? {
            worker.steps.at("after_claim").await;
            effect::apply(&mut transaction, order).await?;
            worker.steps.at("after_effect").await;
        }
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}
