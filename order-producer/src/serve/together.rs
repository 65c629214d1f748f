//! New orders that come at the same time are accepted together: while a statement is under way, those that
//! come meanwhile wait for the next one and share it. It is what PostgreSQL does with commits ("group
//! commit"), one step before it; an order that comes alone waits for nobody.
//!
//! What one of them does to the statement, the others do not feel: if it fails and the database is there,
//! each is tried by itself.

use std::sync::Arc;

use idempotent_consumer::failpoint::failpoint;
use idempotent_consumer::failure::{FailureClass, class_of};
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::accept::{Answered, count_accepted, replay};
use super::look::on_connection;
use super::problem::Problem;
use super::store::{self, NewOrder};

/// Statements under way at the same time: one writes while another waits for the disk.
const STATEMENTS: usize = 4;
/// Orders of one statement, at most.
const TOGETHER_MAX: usize = 64;

/// Where new orders come together.
pub(super) struct Together {
    asked: mpsc::UnboundedSender<Asked>,
}

/// An order, and who waits for the answer.
struct Asked {
    order: NewOrder,
    answer: oneshot::Sender<Result<Answered, Problem>>,
}

impl Together {
    /// Begins to accept orders; ends when it is dropped and all have their answers.
    pub(super) fn start(pool: &PgPool) -> Self {
        let (asked, asking) = mpsc::unbounded_channel();
        let asking = Arc::new(Mutex::new(asking));
        for _ in 0..STATEMENTS {
            tokio::spawn(work(pool.clone(), Arc::clone(&asking)));
        }
        Self { asked }
    }

    /// Accepts an order. It goes on if nobody waits for it any more.
    pub(super) async fn place(&self, order: NewOrder) -> Result<Answered, Problem> {
        let (answer, answered) = oneshot::channel();
        // As many as the gateway lets in, each with its body in memory already: the queue needs no
        // bound of its own.
        let _ = self.asked.send(Asked { order, answer });
        answered.await.unwrap_or_else(|_| {
            tracing::error!("an order's work panicked");
            Err(Problem::internal())
        })
    }
}

async fn work(pool: PgPool, asking: Arc<Mutex<mpsc::UnboundedReceiver<Asked>>>) {
    loop {
        let mut asked = Vec::new();
        if asking.lock().await.recv_many(&mut asked, TOGETHER_MAX).await == 0 {
            return;
        }
        // A task of its own: a panic is the end of these, not of all that come.
        let _ = tokio::spawn(accept(pool.clone(), asked)).await;
    }
}

async fn accept(pool: PgPool, asked: Vec<Asked>) {
    let (asked, again) = part(asked, |asked| asked.order.key());
    let (orders, answers): (Vec<_>, Vec<_>) =
        asked.into_iter().map(|asked| (asked.order, asked.answer)).unzip();
    match on_connection(&pool, async |connection| place(connection, &orders).await).await {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(outcome);
            }
        }
        Err(error) if orders.len() > 1 && class_of(&error) != FailureClass::Infrastructure => {
            let asked = orders.into_iter().zip(answers);
            each_alone(&pool, asked.map(|(order, answer)| Asked { order, answer }));
        }
        Err(error) => {
            let problem = Problem::of_database(&error);
            for answer in answers {
                let _ = answer.send(Err(problem.clone()));
            }
        }
    }
    // Behind the first of their key.
    each_alone(&pool, again);
}

fn each_alone(pool: &PgPool, asked: impl IntoIterator<Item = Asked>) {
    for one in asked {
        tokio::spawn(accept(pool.clone(), vec![one]));
    }
}

/// Parts those that are the first of their key, in the order of the keys, from the others.
fn part<T>(asked: Vec<T>, key: impl Fn(&T) -> (&str, &str)) -> (Vec<T>, Vec<T>) {
    let mut first: Vec<T> = Vec::with_capacity(asked.len());
    let mut again = Vec::new();
    for one in asked {
        match first.binary_search_by(|other| key(other).cmp(&key(&one))) {
            Ok(_) => again.push(one),
            Err(at) => first.insert(at, one),
        }
    }
    (first, again)
}

/// Accepts orders, each under another key; what each comes to.
async fn place(
    connection: &mut PgConnection,
    orders: &[NewOrder],
) -> Result<Vec<Result<Answered, Problem>>, sqlx::Error> {
    failpoint("gateway.before_placing");
    let placed = store::place(connection, orders).await?;
    failpoint("gateway.after_placing_before_answer");
    let mut outcomes = Vec::with_capacity(orders.len());
    for order in orders {
        outcomes.push(if placed.contains(&order.message_id) {
            count_accepted(store::EVENT);
            Ok(Answered::First(order.answer.clone()))
        } else {
            replay(store::held_key(connection, &order.key).await?, &order.key)
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_comes_once_in_order_and_whoever_came_first_is_it() {
        // All ways in which five come with three keys.
        for way in 0..3_usize.pow(5) {
            let keys = (0..5).map(|number| ["c", "a", "b"][way / 3_usize.pow(number) % 3]);
            let asked: Vec<(usize, &str)> = keys.enumerate().collect();
            let (first, again) = part(asked.clone(), |(_, key)| ("client", key));
            assert!(first.windows(2).all(|pair| pair[0].1 < pair[1].1), "{first:?}");
            for (number, key) in &asked {
                let came_before = asked[..*number].iter().any(|(_, other)| other == key);
                let list = if came_before { &again } else { &first };
                assert!(list.contains(&(*number, *key)), "{asked:?}");
            }
            assert_eq!(first.len() + again.len(), asked.len());
        }
    }
}
