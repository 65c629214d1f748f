//! A batch of decoded records, and one transaction over a piece of it.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::PgConnection;

use crate::failure::{FailureClass, class_of, keeps_connection, sqlstate};
use crate::handler::{Answer, Decoded, Decoder, Handler, HandlerError, Message, Outgoing};
use crate::identity::{self, Identity};
use crate::message::{MessageId, Record};
use crate::outcome::{
    Candidate, ClaimVanished, Content, Standing, Verdict, claims, conflict_claims,
    conflict_verdict, judge,
};
use crate::plan::Plan;
use crate::store::batch::{BatchError, Committed, Counts, LaneName, Opened};
use crate::store::dead_letters::NewDeadLetter;

/// The decoded records of a batch, in the order of their offsets.
pub(crate) struct Batch<B> {
    items: Vec<Item<B>>,
}

struct Item<B> {
    candidate: Candidate,
    slot: Slot<B>,
}

enum Slot<B> {
    Usable(Message<B>),
    Other { record: Record, event_type: Option<String> },
}

impl<B> Item<B> {
    fn record(&self) -> &Record {
        match &self.slot {
            Slot::Usable(message) => &message.record,
            Slot::Other { record, .. } => record,
        }
    }

    fn event_type(&self) -> Option<&str> {
        match &self.slot {
            Slot::Usable(message) => message.event_type.as_deref(),
            Slot::Other { event_type, .. } => event_type.as_deref(),
        }
    }
}

impl<B> Batch<B> {
    /// Identifies and decodes records. Poison is found here, before any SQL.
    pub(crate) fn decode(
        records: Vec<Record>,
        topic_id: &str,
        decoder: &impl Decoder<Body = B>,
    ) -> Self {
        let items = records
            .into_iter()
            .map(|record| {
                let Identity { id, fingerprint, event_type } =
                    identity::identify(&record, topic_id);
                let (content, slot) = match decoder.decode(&record) {
                    Ok(Decoded::Message(body)) => {
                        (Content::Usable, Slot::Usable(Message { id, event_type, body, record }))
                    }
                    Ok(Decoded::Skip) => (Content::Skip, Slot::Other { record, event_type }),
                    Err(poison) => (
                        Content::Doomed(Verdict::new(
                            FailureClass::Permanent,
                            poison.code,
                            poison.text,
                            0,
                        )),
                        Slot::Other { record, event_type },
                    ),
                };
                Item { candidate: Candidate { id, fingerprint, content }, slot }
            })
            .collect();
        Self { items }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The offset of one of its records.
    pub(crate) fn offset(&self, index: usize) -> i64 {
        self.items[index].record().offset
    }

    /// The id of one of its messages.
    pub(crate) fn id(&self, index: usize) -> MessageId {
        self.items[index].candidate.id
    }
}

/// How one transaction over a piece of a batch ended, if it did not fail.
pub(crate) enum PieceEnd {
    Committed(Committed),
    /// The handler wants this message later. Nothing was kept.
    Retry {
        index: usize,
        reason: String,
    },
}

/// Why one transaction over a piece of a batch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PieceError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The commit was sent, and its answer did not come. If it went through, progress is there.
    #[error("the outcome of the commit is unknown: {error}")]
    Commit { error: BatchError, next_offset: i64, database_next: i64, counts: Counts },
    #[error("{0}")]
    Handler(HandlerError),
    #[error("the handler took longer than {} s", .0.as_secs_f64())]
    HandlerTimeout(Duration),
    #[error("the handler panicked: {0}")]
    HandlerPanic(String),
    #[error("the handler gave {got} answers for {expected} messages")]
    WrongAnswers { expected: usize, got: usize },
    #[error(transparent)]
    Vanished(#[from] ClaimVanished),
    #[error("{dead} of the last {of} messages were to be dead-lettered, above the allowed share")]
    TooManyDeadLetters { dead: u64, of: u64 },
}

impl PieceError {
    /// What it means for the messages of the piece.
    pub(crate) fn class(&self) -> FailureClass {
        match self {
            Self::Batch(BatchError::Database(error)) => class_of_own(error),
            Self::Commit { error: BatchError::Database(error), .. } => class_of(error),
            Self::Handler(error) => error.class(),
            Self::HandlerTimeout(_) | Self::HandlerPanic(_) => FailureClass::Retryable,
            Self::Batch(BatchError::TransactionEnded)
            | Self::WrongAnswers { .. }
            | Self::TooManyDeadLetters { .. } => FailureClass::Stop,
            Self::Batch(BatchError::Fenced) | Self::Commit { .. } | Self::Vanished(_) => {
                FailureClass::Infrastructure
            }
        }
    }

    /// The machine-readable code of the dead letter that this failure may end in.
    pub(crate) fn code(&self) -> String {
        let state = match self {
            Self::HandlerTimeout(_) => return "handler_timeout".to_owned(),
            Self::HandlerPanic(_) => return "handler_panicked".to_owned(),
            Self::Handler(error) => error.sqlstate(),
            Self::Batch(BatchError::Database(error))
            | Self::Commit { error: BatchError::Database(error), .. } => sqlstate(error),
            _ => None,
        };
        state.map_or_else(|| "handler_failed".to_owned(), |state| format!("sqlstate_{state}"))
    }

    /// Whether the connection is still good. A future of it that was dropped half way is not.
    pub(crate) fn keeps_connection(&self) -> bool {
        match self {
            Self::Batch(BatchError::Database(error)) => keeps_connection(error),
            Self::Handler(error) => error.keeps_connection(),
            Self::Commit { .. } | Self::HandlerTimeout(_) | Self::HandlerPanic(_) => false,
            _ => true,
        }
    }
}

/// The class of an error of the engine's own statements: no message is to blame for those.
fn class_of_own(error: &sqlx::Error) -> FailureClass {
    match class_of(error) {
        // Storage so slow that even ours are cut off.
        FailureClass::Retryable if sqlstate(error).as_deref() == Some("57014") => {
            FailureClass::Infrastructure
        }
        // A table of ours does not take what we write: somebody has changed it.
        FailureClass::Permanent => FailureClass::Stop,
        class => class,
    }
}

/// What a transaction needs besides its messages.
pub(crate) struct Setting<'a, H> {
    pub handler: &'a H,
    pub lane: &'a LaneName,
    pub dlq_topic: &'a str,
    pub begin_sql: &'a str,
    pub handler_timeout: Duration,
    /// Refuses a share of dead letters that is too high.
    pub check_dead_letters: &'a (dyn Fn(Counts) -> Result<(), PieceError> + Sync),
}

/// One transaction: claim, judge, apply, dead-letter, progress, commit.
pub(crate) async fn run_piece<H: Handler>(
    connection: &mut PgConnection,
    setting: &Setting<'_, H>,
    batch: &Batch<H::Body>,
    plan: &Plan,
    range: Range<usize>,
) -> Result<PieceEnd, PieceError> {
    let items = &batch.items[range.clone()];
    let candidates: Vec<Candidate> = items
        .iter()
        .zip(range.clone())
        .map(|(item, index)| match plan.verdict(index) {
            Some(verdict) => {
                Candidate { content: Content::Doomed(verdict.clone()), ..item.candidate.clone() }
            }
            None => item.candidate.clone(),
        })
        .collect();
    let offsets: Vec<i64> = items.iter().map(|item| item.record().offset).collect();

    let opened = Opened::begin(connection, setting.lane, setting.begin_sql).await?;
    let mut claimed = opened.claim(&claims(&candidates), &candidates, &offsets).await?;
    let standings = judge(&candidates, &claimed.result)?;
    let conflicts_won =
        claimed.claim_conflicts(&conflict_claims(&standings), &candidates, &offsets).await?;

    // What the handler is to apply.
    let fresh: Vec<usize> = (0..items.len())
        .filter(|at| {
            standings[*at] == Standing::Fresh && candidates[*at].content == Content::Usable
        })
        .collect();
    let messages: Vec<&Message<H::Body>> = fresh
        .iter()
        .filter_map(|at| match &items[*at].slot {
            Slot::Usable(message) => Some(message),
            Slot::Other { .. } => None,
        })
        .collect();
    let mut outgoing: Vec<Outgoing> = Vec::new();
    let mut answers: HashMap<usize, Answer> = HashMap::new();
    if !messages.is_empty() {
        let mut context = claimed.context();
        let call = setting.handler.handle(&mut context, &messages);
        let called = AssertUnwindSafe(call).catch_unwind();
        let given = match tokio::time::timeout(setting.handler_timeout, called).await {
            Ok(Ok(Ok(given))) => given,
            Ok(Ok(Err(error))) => return Err(PieceError::Handler(error)),
            Ok(Err(panic)) => return Err(PieceError::HandlerPanic(panic_text(panic.as_ref()))),
            Err(_) => return Err(PieceError::HandlerTimeout(setting.handler_timeout)),
        };
        outgoing = context.outgoing;
        if given.len() != fresh.len() {
            return Err(PieceError::WrongAnswers { expected: fresh.len(), got: given.len() });
        }
        for (at, answer) in fresh.iter().zip(given) {
            if let Answer::Retry(reason) = answer {
                return Ok(PieceEnd::Retry { index: range.start + at, reason });
            }
            answers.insert(*at, answer);
        }
    }

    // The end of each message.
    let mut counts = Counts::default();
    let mut rejected: Vec<MessageId> = Vec::new();
    let mut verdicts: Vec<(usize, MessageId, Verdict)> = Vec::new();
    for (at, standing) in standings.iter().enumerate() {
        let id = candidates[at].id;
        match (standing, &candidates[at].content, answers.remove(&at)) {
            (Standing::Fresh, Content::Skip, _) => counts.skipped += 1,
            (Standing::Fresh, Content::Doomed(verdict), _) => {
                verdicts.push((at, id, verdict.clone()));
            }
            (Standing::Fresh, Content::Usable, Some(Answer::Rejected(code, text))) => {
                let attempts = plan.attempts(range.start + at) + 1;
                rejected.push(id);
                verdicts.push((
                    at,
                    id,
                    Verdict::new(FailureClass::Permanent, code, text, attempts),
                ));
            }
            (Standing::Fresh, Content::Usable, _) => counts.applied += 1,
            (Standing::Duplicate, ..) => counts.duplicates += 1,
            (Standing::Conflict(other), ..) => {
                let first = !verdicts.iter().any(|(_, known, _)| known == other);
                if first && conflicts_won.contains(other) {
                    verdicts.push((at, *other, conflict_verdict(id)));
                } else {
                    counts.duplicates += 1;
                }
            }
        }
    }
    counts.dead_lettered = i64::try_from(verdicts.len()).unwrap_or(i64::MAX);
    (setting.check_dead_letters)(counts)?;
    let now_ms = claimed.now_ms();
    let dead: Vec<NewDeadLetter<'_>> = verdicts
        .iter()
        .map(|(at, message_id, verdict)| NewDeadLetter {
            dlq_id: identity::id_of_dead_letter(&setting.lane.group, *message_id),
            message_id: *message_id,
            original_id: candidates[*at].id,
            event_type: items[*at].event_type(),
            record: items[*at].record(),
            verdict,
            now_ms,
        })
        .collect();

    let next_offset = offsets.last().map_or(0, |last| last + 1);
    let finished =
        claimed.finish(&rejected, &dead, &outgoing, setting.dlq_topic, next_offset, counts).await?;
    let database_next = finished.database_next;
    finished.commit().await.map(PieceEnd::Committed).map_err(|error| PieceError::Commit {
        error,
        next_offset,
        database_next,
        counts,
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// Progress without messages: no record is left below `offset`.
pub(crate) async fn run_empty(
    connection: &mut PgConnection,
    lane: &LaneName,
    begin_sql: &str,
    offset: i64,
) -> Result<Committed, PieceError> {
    let claimed = Opened::begin(connection, lane, begin_sql).await?.claim(&[], &[], &[]).await?;
    let finished = claimed.finish(&[], &[], &[], "", offset, Counts::default()).await?;
    let database_next = finished.database_next;
    finished.commit().await.map_err(|error| PieceError::Commit {
        error,
        next_offset: offset,
        database_next,
        counts: Counts::default(),
    })
}
