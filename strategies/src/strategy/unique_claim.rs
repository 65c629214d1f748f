//! This repository's engine with a handler of its own. The engine claims a batch of ids by their
//! primary key, in the transaction in which this handler applies what is new.

use idempotent_consumer::{Answer, Context, Handler, HandlerError, Message};

use crate::engine::ProcessSteps;
use crate::stream::Body;

pub(crate) struct UniqueClaim {
    pub(crate) steps: ProcessSteps,
}

impl Handler for UniqueClaim {
    type Body = Body;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<Body>],
    ) -> Result<Vec<Answer>, HandlerError> {
        self.steps.at("after_claim", batch.len()).await;
        let bodies = || batch.iter().map(|message| &message.body);
        let customers: Vec<&str> = bodies().map(|body| body.customer_id.as_str()).collect();
        let amounts: Vec<i64> = bodies().map(|body| body.amount_cents).collect();
        sqlx::query(
            r"
            INSERT INTO orders (order_id, customer_id, number, amount_cents)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
            ",
        )
        .bind(bodies().map(|body| body.order_id).collect::<Vec<_>>())
        .bind(&customers)
        .bind(bodies().map(|body| body.number).collect::<Vec<_>>())
        .bind(&amounts)
        .execute(context.connection())
        .await?;
        sqlx::query(
            r"
            UPDATE totals SET spent_cents = spent_cents + added
              FROM (SELECT customer_id, sum(amount)::bigint AS added
                      FROM unnest($1::text[], $2::bigint[]) AS new (customer_id, amount)
                     GROUP BY customer_id) AS sums
             WHERE totals.customer_id = sums.customer_id
            ",
        )
        .bind(&customers)
        .bind(&amounts)
        .execute(context.connection())
        .await?;
        self.steps.at("after_effect", batch.len()).await;
        Ok(vec![Answer::Applied; batch.len()])
    }
}
