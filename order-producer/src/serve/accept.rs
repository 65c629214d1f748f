//! A request that changes an order, in one transaction: its key, the order, the event in the outbox and
//! the answer. It commits or nothing has happened, so whatever dies when, the same request again gives
//! the same answer, and one event. A new order has nothing to look at before, and is accepted
//! [together](super::together) with others.

use axum::http::StatusCode;
use idempotent_consumer::failpoint::failpoint;
use idempotent_consumer::outbox::{self, Outgoing};
use idempotent_consumer::{Headers, TraceContext};
use order_events::{Envelope, EventKind, OrderContent, OrderEvent, encode};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::answer::Answer;
use super::decide::{Decision, Standing, Wanted, decide, placed, standing};
use super::look::in_time;
use super::problem::Problem;
use super::store::{self, KeyHeld, KeyUse, NewOrder};
use super::truth::{Accepted, Event, Fate, is_same_order, view};

/// How often a request begins again because another one has added its order meanwhile. That one has
/// ended then, so the second time finds the order.
const ROUNDS_MAX: u32 = 3;

/// Where events go, and what they say of their origin.
#[derive(Debug, Clone)]
pub(super) struct Publishing {
    pub(super) topic: String,
    pub(super) source: String,
    /// The trace that the request belongs to.
    pub(super) trace: Option<TraceContext>,
}

/// The answer to a request.
#[derive(Debug)]
pub(super) enum Answered {
    First(Answer),
    Replayed(Answer),
}

/// What a request came to.
struct Done {
    answer: Answer,
    published: Option<EventKind>,
}

/// Does what a request asks for of an order that there may be. Must run to its end: a dropped future
/// would leave the pool a connection in the middle of a transaction.
pub(super) async fn accept(
    pool: PgPool,
    publishing: Publishing,
    key: Option<KeyUse>,
    wanted: Wanted,
) -> Result<Answered, Problem> {
    let mut connection = pool.acquire().await.map_err(|error| Problem::of_database(&error))?;
    let work = in_transaction(&mut connection, &publishing, key.as_ref(), wanted);
    in_time(work).await.map_err(|refused| match refused {
        Refused::Problem(problem) => problem,
        Refused::Database(error) => {
            // Whatever state the session is in, nobody else gets it.
            connection.close_on_drop();
            Problem::of_database(&error)
        }
    })
}

/// A new order, whose id is ours, as it will be accepted. Its times are those of this machine's clock:
/// the answer has to be known before the database is asked.
pub(super) fn new_order(
    publishing: &Publishing,
    key: KeyUse,
    content: OrderContent,
    now: OffsetDateTime,
) -> NewOrder {
    let order_id = content.order_id();
    let (event, standing) = placed(content);
    let accepted = Accepted { standing, version: 1, created_at: now, updated_at: now };
    let (message_id, outgoing) = publishing.outgoing(&event);
    let events = vec![pending(&event, message_id, now)];
    let answer =
        Answer::json(store::STATUS, &view(Some(&accepted), None, events)).located(order_id);
    NewOrder { key, accepted, message_id, outgoing, answer }
}

/// Why there is no answer to keep.
#[derive(Debug)]
enum Refused {
    Problem(Problem),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

async fn in_transaction(
    connection: &mut PgConnection,
    publishing: &Publishing,
    key: Option<&KeyUse>,
    wanted: Wanted,
) -> Result<Answered, Refused> {
    let mut transaction = store::begin(connection).await?;
    if let Some(key) = key
        && !store::take_key(&mut transaction, key).await?
    {
        let held = store::held_key(&mut transaction, key).await?;
        transaction.rollback().await?;
        return replay(held, key).map_err(Refused::Problem);
    }
    let done = change(&mut transaction, publishing, wanted).await?;
    if let Some(key) = key {
        store::keep_answer(&mut transaction, key, &done.answer).await?;
    }
    failpoint("gateway.before_commit");
    transaction.commit().await?;
    failpoint("gateway.after_commit_before_answer");
    if let Some(kind) = done.published {
        count_accepted(kind);
    }
    Ok(Answered::First(done.answer))
}

/// The answer that the key has, where it was used for the same.
pub(super) fn replay(held: Option<KeyHeld>, key: &KeyUse) -> Result<Answered, Problem> {
    match held {
        Some(held) if held.fingerprint == key.fingerprint => {
            metrics::counter!("order_producer_replayed_total").increment(1);
            Ok(Answered::Replayed(held.answer))
        }
        Some(_) => Err(Problem::key_reused()),
        None => Err(Problem::in_flight()),
    }
}

pub(super) fn count_accepted(kind: EventKind) {
    metrics::counter!("order_producer_accepted_total", "event" => kind.as_str()).increment(1);
}

async fn change(
    connection: &mut PgConnection,
    publishing: &Publishing,
    wanted: Wanted,
) -> Result<Done, Refused> {
    for _ in 0..ROUNDS_MAX {
        if let Some(done) = change_once(connection, publishing, wanted.clone()).await? {
            return Ok(done);
        }
    }
    Err(Refused::Problem(Problem::in_flight()))
}

/// `None` if somebody else has added the order since it was looked for.
async fn change_once(
    connection: &mut PgConnection,
    publishing: &Publishing,
    wanted: Wanted,
) -> Result<Option<Done>, Refused> {
    let order_id = wanted.order_id();
    let by_client = matches!(wanted, Wanted::Put { .. });
    let before = store::lock_order(connection, order_id).await?;
    let mut known = match before {
        Some(_) => {
            store::read_orders(connection, &[order_id]).await?.remove(&order_id).unwrap_or_default()
        }
        None => store::Known::default(),
    };
    let current = standing(
        before.as_ref().map(|before| before.standing.clone()),
        known.is_pending(),
        // A PUT names the customer and is judged by that. The others mean the order that was accepted
        // here, and never another customer's that has its id.
        known
            .applied
            .as_ref()
            .filter(|applied| by_client || is_same_order(before.as_ref(), applied))
            .map(|applied| applied.standing.clone()),
    );
    let decision = decide(current.as_ref(), wanted)
        .map_err(|error| Refused::Problem(Problem::of_body(error)))?;
    let (event, standing) = match decision {
        Decision::Refuse(rejection) => {
            let answer = Problem::of_rejection(rejection, before.is_some()).answer();
            return Ok(Some(Done { answer, published: None }));
        }
        Decision::Nothing => {
            let seen = view(before.as_ref(), known.applied.as_ref(), known.events);
            let answer = Answer::json(StatusCode::OK, &seen);
            return Ok(Some(Done { answer, published: None }));
        }
        Decision::Publish(event, standing) => (event, standing),
    };
    let Some(accepted) = write_order(connection, before.as_ref(), &standing).await? else {
        return Ok(None);
    };
    known.events.push(write_event(connection, publishing, accepted.version, &event).await?);
    let seen = view(Some(&accepted), known.applied.as_ref(), known.events);
    let answer = match event.kind() {
        store::EVENT => Answer::json(store::STATUS, &seen).located(order_id),
        _ if by_client => Answer::json(StatusCode::OK, &seen),
        _ => Answer::json(StatusCode::ACCEPTED, &seen),
    };
    Ok(Some(Done { answer, published: Some(event.kind()) }))
}

async fn write_order(
    connection: &mut PgConnection,
    before: Option<&Accepted>,
    standing: &Standing,
) -> Result<Option<Accepted>, sqlx::Error> {
    match before {
        Some(before) => store::update_order(connection, before, standing).await.map(Some),
        None => store::insert_order(connection, standing).await,
    }
}

/// Writes the event to the outbox, behind those of its order that were accepted before: their
/// transactions held the order's row until their end.
async fn write_event(
    connection: &mut PgConnection,
    publishing: &Publishing,
    version: i64,
    event: &OrderEvent,
) -> Result<Event, sqlx::Error> {
    let (message_id, outgoing) = publishing.outgoing(event);
    let accepted_at = store::insert_event(connection, version, message_id, event).await?;
    outbox::publish(connection, &outgoing).await?;
    Ok(pending(event, message_id, accepted_at))
}

impl Publishing {
    /// The event as a record to publish, under a new message id.
    fn outgoing(&self, event: &OrderEvent) -> (Uuid, Outgoing) {
        let message_id = Uuid::now_v7();
        let envelope = Envelope {
            id: message_id.to_string(),
            source: self.source.clone(),
            time: OffsetDateTime::now_utc(),
            traceparent: self.trace.map(|trace| trace.to_string()),
        };
        let record = encode(event, &envelope);
        let headers: Headers = record.headers.into_iter().collect();
        let outgoing = Outgoing {
            topic: self.topic.clone(),
            partition: None,
            key: Some(record.key),
            value: Some(record.value),
            headers,
        };
        (message_id, outgoing)
    }
}

fn pending(event: &OrderEvent, message_id: Uuid, accepted_at: OffsetDateTime) -> Event {
    let kind = event.kind().as_str().to_owned();
    Event { kind, message_id, accepted_at, fate: Fate::Pending }
}
