//! A batch of decoded records, and one transaction over a piece of it.

mod ends;
mod error;
mod redriven;
mod spans;
mod told;
mod waiting;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;

use self::ends::Endings;
pub(crate) use self::error::PieceError;
use self::redriven::redriven_of;
pub(crate) use self::spans::Spans;
use self::waiting::{Waits, changes, waits_of};
use crate::deferral::KeyHash;
use crate::failpoint::failpoint;
use crate::failure::FailureClass;
use crate::handler::{Answer, Context, Decoded, Decoder, Handler, Message, Outgoing, Poison};
use crate::identity::{self, IdMode, Identity};
use crate::kafka::identity::Confirmation;
use crate::message::{MessageId, Record};
use crate::observe;
use crate::outcome::{Candidate, Content, Standing, Verdict, claims, conflict_claims, judge};
use crate::phases::{Phase, Phases};
use crate::plan::Plan;
use crate::redrive::Ticket;
use crate::store::batch::{Committed, Counts, Ends, LaneName, Opened};
use crate::store::claims::Claiming;
use crate::store::connect::BeginSql;
use crate::store::copies::Ended;
use crate::store::retry_queue::{Changes, Due};
use crate::telemetry::Span;

/// The decoded records of a batch, in the order of the log.
pub(crate) struct Batch<B> {
    items: Vec<Item<B>>,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Log,
    RetryQueue,
}

struct Item<B> {
    candidate: Candidate,
    slot: Slot<B>,
    /// Its place in the retry queue, if it comes from there.
    queue_no: Option<i64>,
    /// Doomed for having ended the process: to wait for another attempt behind its key would be one
    /// more time.
    waits_for_nobody: bool,
    first_failed_at: Option<OffsetDateTime>,
    /// It says that it is redriven.
    ticket: Option<Box<Ticket>>,
    /// If its trace is sampled and spans are exported.
    span: Option<Box<Span>>,
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

    fn key_hash(&self) -> Option<KeyHash> {
        self.record().key.as_deref().map(KeyHash::of)
    }

    fn event_type(&self) -> Option<&str> {
        match &self.slot {
            Slot::Usable(message) => message.event_type.as_deref(),
            Slot::Other { event_type, .. } => event_type.as_deref(),
        }
    }
}

impl<B> Item<B> {
    /// Identifies and decodes a record. Poison is found here, before any SQL.
    fn decode(
        record: Record,
        topic_id: &str,
        id_mode: &IdMode,
        decoder: &impl Decoder<Body = B>,
    ) -> Self {
        let identity = identity::identify(&record, topic_id, id_mode);
        let (content, body) = match decode(decoder, &record) {
            Ok(Decoded::Message(body)) => (Content::Usable, Some(body)),
            Ok(Decoded::Skip) => (Content::Skip, None),
            Err(Poison { code, text }) => {
                let verdict = Verdict::new(FailureClass::Permanent, code, text, 0);
                (Content::Doomed(Box::new(verdict)), None)
            }
        };
        Self::new(record, identity, content, body)
    }

    fn new(record: Record, identity: Identity, content: Content, body: Option<B>) -> Self {
        let Identity { id, fingerprint, event_type } = identity;
        let ticket = Ticket::of(&record).filter(|ticket| ticket.id == id).map(Box::new);
        let span = spans::begun(&record);
        let trace = span.as_ref().map(|span| Box::new(span.context()));
        Self {
            candidate: Candidate { id, fingerprint, content, of_old_log: false },
            slot: match body {
                Some(body) => Slot::Usable(Message { id, event_type, body, record, trace }),
                None => Slot::Other { record, event_type },
            },
            queue_no: None,
            waits_for_nobody: false,
            first_failed_at: None,
            ticket,
            span,
        }
    }

    /// Identifies a record that is not even to be decoded.
    fn doomed(record: Record, topic_id: &str, id_mode: &IdMode, verdict: Verdict) -> Self {
        let identity = identity::identify(&record, topic_id, id_mode);
        Self::new(record, identity, Content::Doomed(Box::new(verdict)), None)
    }
}

impl<B> Batch<B> {
    /// Records from the log. Those below `settled` have their outcome, and are not looked into.
    pub(crate) fn from_log(
        records: Vec<Record>,
        settled: i64,
        topic_id: &str,
        id_mode: &IdMode,
        decoder: &impl Decoder<Body = B>,
    ) -> Self {
        let decode = |record: Record| {
            if record.offset < settled {
                let identity = identity::identify(&record, topic_id, id_mode);
                return Item {
                    ticket: None,
                    ..Item::new(record, identity, Content::Settled, None)
                };
            }
            Item::decode(record, topic_id, id_mode, decoder)
        };
        Self { items: records.into_iter().map(decode).collect(), origin: Origin::Log }
    }

    /// A record that has ended the process too often.
    pub(crate) fn doomed(
        record: Record,
        topic_id: &str,
        id_mode: &IdMode,
        verdict: Verdict,
    ) -> Self {
        let item = Item::doomed(record, topic_id, id_mode, verdict);
        Self { items: vec![Item { waits_for_nobody: true, ..item }], origin: Origin::Log }
    }

    /// Messages from the retry queue.
    pub(crate) fn from_retry_queue(
        due: Vec<Due>,
        id_mode: &IdMode,
        decoder: &impl Decoder<Body = B>,
    ) -> Self {
        let decode = |due: Due| {
            let mut item = match due.doomed {
                Some(verdict) => Item::doomed(due.record, &due.topic_id, id_mode, verdict),
                None => Item::decode(due.record, &due.topic_id, id_mode, decoder),
            };
            item.candidate.of_old_log = due.of_old_log;
            item.queue_no = Some(due.queue_no);
            item.first_failed_at = due.first_failed_at;
            item
        };
        Self { items: due.into_iter().map(decode).collect(), origin: Origin::RetryQueue }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_from_retry_queue(&self) -> bool {
        self.origin == Origin::RetryQueue
    }

    /// Where one of its messages is in the retry queue, if it comes from there.
    pub(crate) fn queue_no(&self, index: usize) -> Option<i64> {
        self.items[index].queue_no
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

/// A decoder is not to panic. If one does, it is over that record, and would be so again.
fn decode<D: Decoder>(decoder: &D, record: &Record) -> Result<Decoded<D::Body>, Poison> {
    std::panic::catch_unwind(AssertUnwindSafe(|| decoder.decode(record))).unwrap_or_else(|panic| {
        Err(Poison { code: "decoder_panicked".into(), text: panic_text(panic.as_ref()) })
    })
}

/// How one transaction over a piece of a batch ended, if it did not fail.
pub(crate) enum PieceEnd {
    Committed(Committed),
    /// The handler wants these messages later, for these reasons. Nothing was kept.
    Retry(Vec<(usize, String)>),
}

/// What a transaction needs besides its messages.
pub(crate) struct Setting<'a, H> {
    pub handler: &'a H,
    pub lane: &'a LaneName,
    pub topic_id: &'a str,
    /// Where the lane knows the database to be.
    pub database_next: i64,
    /// The topic's id as of after the records came in; `None` if they are not read from the log.
    pub confirmation: Option<Confirmation>,
    /// Whether that has to be known before the handler is called.
    pub effects_outside: bool,
    pub dlq_topic: &'a str,
    pub begin_sql: &'a BeginSql,
    pub claiming: &'a Claiming,
    pub phases: &'a Phases,
    /// The wait after so many failures of a message.
    pub retry_delay: &'a (dyn Fn(u32) -> Duration + Sync),
    pub handler_timeout: Duration,
    /// Refuses a share of dead letters that is too high.
    pub check_dead_letters: &'a (dyn Fn(Counts) -> Result<(), PieceError> + Sync),
}

impl<H> Setting<'_, H> {
    /// The records are of the log that progress is of.
    async fn confirm(&self) -> Result<(), PieceError> {
        let Some(confirmation) = &self.confirmation else { return Ok(()) };
        let topic_id = confirmation.clone().await.map_err(PieceError::LogUnknown)?;
        if topic_id.as_deref() != Some(self.topic_id) {
            return Err(PieceError::LogReplaced);
        }
        Ok(())
    }
}

/// One transaction: see what has to wait; claim, judge, apply, dead-letter; progress, commit.
pub(crate) async fn run_piece<H: Handler>(
    connection: &mut PgConnection,
    setting: &Setting<'_, H>,
    batch: &Batch<H::Body>,
    plan: &Plan,
    range: Range<usize>,
) -> Result<PieceEnd, PieceError> {
    failpoint("consumer.before_begin");
    let mut lap = setting.phases.lap();
    let expected = Some(setting.database_next);
    let begin_sql = setting.begin_sql.of(range.len());
    let mut opened = Opened::begin(connection, setting.lane, begin_sql, expected).await?;
    failpoint("consumer.after_begin");
    let redriven = redriven_of(&mut opened, setting.lane, batch, range.clone()).await?;
    let waits = waits_of(&mut opened, setting, batch, plan, range.clone(), &redriven).await?;
    lap.ends(Phase::Opening);

    let mut present = Present::of(batch, plan, range.clone().zip(&waits));
    if batch.origin == Origin::Log {
        for at in 0..present.indices.len() {
            // A dead letter keeps its claim, so its copy needs no proof of being new.
            if redriven.number(present.indices[at]).is_none() {
                opened.memory.admit(&mut present.candidates[at], present.items[at].record());
            }
        }
    }
    let Present { candidates, offsets, .. } = &present;
    let mut claimed =
        opened.claim(&claims(candidates), candidates, offsets, setting.claiming).await?;
    failpoint("consumer.after_claim");
    let is_redriven = |at: &usize| redriven.number(present.indices[*at]).is_some();
    claimed.result.redriven = (0..present.indices.len()).filter(is_redriven).collect();
    let standings = judge(candidates, &claimed.result)?;
    let conflicts_won =
        claimed.claim_conflicts(&conflict_claims(&standings), candidates, offsets).await?;

    lap.ends(Phase::Claiming);
    let (fresh, messages) = present.to_apply(&standings);
    let mut outgoing: Vec<Outgoing> = Vec::new();
    let mut answers: Vec<Option<Answer>> = vec![None; standings.len()];
    let mut applied: Vec<usize> = Vec::new();
    if !messages.is_empty() {
        if setting.effects_outside {
            setting.confirm().await?;
        }
        let mut context = claimed.context();
        failpoint("consumer.before_effects");
        let mut given = handle(setting, &mut context, &messages).await?;
        failpoint("consumer.after_effects");
        outgoing = context.outgoing;
        let later: Vec<(usize, String)> = fresh
            .iter()
            .zip(&mut given)
            .filter_map(|(at, answer)| match answer {
                Answer::Retry(reason) => Some((present.indices[*at], std::mem::take(reason))),
                _ => None,
            })
            .collect();
        if !later.is_empty() {
            return Ok(PieceEnd::Retry(later));
        }
        let is_applied =
            |(at, answer): (&usize, &Answer)| matches!(answer, Answer::Applied).then_some(*at);
        applied = fresh.iter().zip(&given).filter_map(is_applied).collect();
        for (at, answer) in fresh.into_iter().zip(given) {
            answers[at] = Some(answer);
        }
    }

    lap.ends(Phase::Applying);
    let ended = Endings::of(&present, &standings, answers, &conflicts_won, &redriven, plan);
    let mut counts = ended.counts;
    (setting.check_dead_letters)(counts)?;
    let spans = spans::Piece {
        setting,
        batch,
        plan,
        range: range.clone(),
        waits: &waits,
        present: &present,
        standings: &standings,
        ends: &ended,
    }
    .spans();
    let (dead, redriven) = ended.letters(&present, &setting.lane.group, claimed.now_ms());
    let queue = changes(setting, batch, plan, range.clone().zip(waits), &mut counts);
    let next_offset = match batch.origin {
        Origin::Log => range.clone().last().map(|last| batch.offset(last) + 1),
        Origin::RetryQueue => None,
    };
    let ends = Ends {
        rejected: ended.rejected.clone(),
        dead,
        redriven,
        outgoing: &outgoing,
        dlq_topic: setting.dlq_topic,
        topic_id: setting.topic_id,
        queue,
        next_offset,
        counts,
    };
    let finished = claimed.finish(&ends).await?;
    if !ends.dead.is_empty() {
        failpoint("consumer.after_dead_letters");
    }
    if !ends.queue.joining.is_empty() {
        failpoint("consumer.after_joining_retry_queue");
    }
    if !ends.queue.leaving.is_empty() {
        failpoint("consumer.after_leaving_retry_queue");
    }
    let database_next = finished.database_next;
    setting.confirm().await?;
    lap.ends(Phase::Finishing);
    let committed = finished.commit().await;
    lap.ends(Phase::Committing);
    let committed = match committed {
        Ok(committed) => committed,
        Err(error) => {
            let spans = Box::new(spans);
            return Err(PieceError::Commit { error, next_offset, database_next, counts, spans });
        }
    };
    let again = ends.redriven.again.iter().map(|(letter, _)| letter);
    observe::dead_letters(ends.dead.iter().chain(again).map(|letter| letter.verdict));
    told::applied(setting.handler, &present, &applied);
    told::dead(setting.handler, &present, &ended);
    told::deferred(setting.handler, batch, plan, range);
    spans.end();
    Ok(PieceEnd::Committed(committed))
}

/// Those messages of a piece that do not wait.
struct Present<'b, B> {
    /// Where each is in the batch.
    indices: Vec<usize>,
    items: Vec<&'b Item<B>>,
    candidates: Vec<Candidate>,
    offsets: Vec<i64>,
}

impl<'b, B> Present<'b, B> {
    fn of<'w>(
        batch: &'b Batch<B>,
        plan: &Plan,
        waits: impl Iterator<Item = (usize, &'w Option<Waits>)>,
    ) -> Self {
        let indices: Vec<usize> =
            waits.filter(|(_, wait)| wait.is_none()).map(|(index, _)| index).collect();
        let items: Vec<&Item<B>> = indices.iter().map(|index| &batch.items[*index]).collect();
        let candidates = items.iter().zip(&indices).map(|(item, index)| {
            let candidate = item.candidate.clone();
            match plan.verdict(*index) {
                Some(verdict) => {
                    Candidate { content: Content::Doomed(Box::new(verdict.clone())), ..candidate }
                }
                None => candidate,
            }
        });
        Self {
            candidates: candidates.collect(),
            offsets: items.iter().map(|item| item.record().offset).collect(),
            items,
            indices,
        }
    }

    /// What the handler is to apply, and where it is among these.
    fn to_apply(&self, standings: &[Standing]) -> (Vec<usize>, Vec<&'b Message<B>>) {
        let fresh = |at: &usize| {
            standings[*at] == Standing::Fresh && self.candidates[*at].content == Content::Usable
        };
        (0..self.items.len())
            .filter(fresh)
            .filter_map(|at| match &self.items[at].slot {
                Slot::Usable(message) => Some((at, message)),
                Slot::Other { .. } => None,
            })
            .unzip()
    }
}

/// One answer for each message, or why there is none.
async fn handle<H: Handler>(
    setting: &Setting<'_, H>,
    context: &mut Context<'_>,
    messages: &[&Message<H::Body>],
) -> Result<Vec<Answer>, PieceError> {
    let called = AssertUnwindSafe(setting.handler.handle(context, messages)).catch_unwind();
    match tokio::time::timeout(setting.handler_timeout, called).await {
        Ok(Ok(Ok(given))) if given.len() == messages.len() => Ok(given),
        Ok(Ok(Ok(given))) => {
            Err(PieceError::WrongAnswers { expected: messages.len(), got: given.len() })
        }
        Ok(Ok(Err(error))) => Err(PieceError::Handler(error)),
        Ok(Err(panic)) => Err(PieceError::HandlerPanic(panic_text(panic.as_ref()))),
        Err(_) => Err(PieceError::HandlerTimeout(setting.handler_timeout)),
    }
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
    begin_sql: &BeginSql,
    expected_next: Option<i64>,
    offset: Option<i64>,
) -> Result<Committed, PieceError> {
    let opened = Opened::begin(connection, lane, begin_sql.of(0), expected_next).await?;
    let claimed = opened.claim(&[], &[], &[], &Claiming::default()).await?;
    let counts = Counts::default();
    let ends = Ends {
        rejected: Vec::new(),
        dead: Vec::new(),
        redriven: Ended::default(),
        outgoing: &[],
        dlq_topic: "",
        topic_id: "",
        queue: Changes::default(),
        next_offset: offset,
        counts,
    };
    let finished = claimed.finish(&ends).await?;
    let database_next = finished.database_next;
    finished.commit().await.map_err(|error| PieceError::Commit {
        error,
        next_offset: offset,
        database_next,
        counts,
        spans: Box::default(),
    })
}
