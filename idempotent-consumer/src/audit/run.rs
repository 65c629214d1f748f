//! The steps of an audit, in the order that makes it right beside working consumers.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use uuid::Uuid;

use super::bounds::{self, Bounds, numbers};
use super::dead_letters;
use super::letters::Copies;
use super::log;
use super::manifest::Manifest;
use super::merge::{Judgement, Merge, Range, Ranges, Seen};
use super::order::KeyOrder;
use super::positions::{Positions, ProgressRow};
use super::projection::{Applied, History, Projection};
use super::report::{AuditReport, Invariant};
use super::store;
use super::wait::{self, Awaited};
use super::{AuditConfig, AuditError, Progress, Stage};
use crate::identity::{FINGERPRINT_VERSION, IdMode};
use crate::kafka::log_reader::Stretch;
use crate::outcome::Outcome;
use crate::redrive::Ticket;
use crate::start::is_given_up;
use crate::store::connect::connect;
use crate::store::scope;

/// Records whose ids are looked up together.
const LOOK_UP_RECORDS: usize = 2048;

/// Audits. Only reads: what it does can be done at any time, beside working consumers.
///
/// # Errors
/// Something could not be read, so nothing can be said. A violation is no error, it is in the
/// report.
pub async fn audit<P: Projection>(
    config: &AuditConfig,
    database: &PgConnectOptions,
    projection: &mut P,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<AuditReport, AuditError> {
    let began = Instant::now();
    let (group, topic) = (config.consumer_group.as_str(), config.topic.as_str());
    let manifest = config.manifest.as_deref().map(Manifest::open).transpose()?;
    // Its statements read whole tables, so none of them is slow in a way worth a warning.
    let database = database.clone().disable_statement_logging();
    let mut connection = connect(&database, "audit").await?;
    check_scope(&mut connection, config).await?;
    let awaited = match config.wait {
        Some(wait) => Some(wait::settle(&mut connection, config, wait, &mut progress).await?),
        None => None,
    };

    let no_topic = || AuditError::NoTopic { topic: topic.to_owned() };
    let before = bounds::of(&config.kafka, group, topic).await?.ok_or_else(no_topic)?;
    let committed = bounds::committed(&config.kafka, group, topic, before.partitions.len()).await?;
    let dlq_before = bounds::of(&config.kafka, group, &config.dlq_topic).await?.unwrap_or_default();

    let mut snapshot = store::begin(&mut connection).await?;
    let id_mode = scope::id_mode(&mut snapshot).await?;
    let rows = store::progress(&mut snapshot, group, topic).await?;
    let lost = store::lost_ranges(&mut snapshot, group, topic).await?;
    let purged_before_ms = store::purged_before_ms(&mut snapshot).await?;
    let (claimed, of_other_topics) = store::count_claims(&mut snapshot, group, topic).await?;

    let now = bounds::of(&config.kafka, group, topic).await?.ok_or_else(no_topic)?;
    let dlq = bounds::of(&config.kafka, group, &config.dlq_topic).await?.unwrap_or_default();
    let ranges = ranges(topic, &now, &rows, awaited.as_ref());

    projection.expect(claimed.values().map(|counted| counted.applied.unsigned_abs()).sum());
    let mut walk = Walk {
        ranges: &ranges,
        merge: Merge::new(invariant(config, 1), purged_before_ms),
        order: KeyOrder::new(invariant(config, 5)),
        manifest,
        first_unconsumed: BTreeMap::new(),
        unconsumed_copies: HashSet::new(),
        projection: &mut *projection,
        complete: true,
    };
    walk.read(&mut snapshot, config, &now.topic_id, id_mode, &mut progress).await?;
    let Walk { mut merge, order, manifest, first_unconsumed, complete, unconsumed_copies, .. } =
        walk;
    let mut not_provable = merge.not_provable;
    if let Some(manifest) = &manifest {
        not_provable += manifest.not_provable;
        merge.findings.note(format!("{} lines of the manifest were compared", manifest.len()));
        if manifest.unconfirmed > 0 {
            merge.findings.note(format!(
                "{} messages of the manifest were not confirmed to the producer, so they may be \
                 in the log or not",
                manifest.unconfirmed
            ));
        }
    }
    if of_other_topics > 0 {
        merge.findings.note(format!("{of_other_topics} outcomes of other topics were not audited"));
    }
    let mut tables = invariant(config, 2);
    let mut positions = invariant(config, 3);
    let purged = Positions {
        topic_id: &now.topic_id,
        ranges: &ranges,
        progress: &rows,
        committed: &committed,
        first_unconsumed: &first_unconsumed,
        claimed: &claimed,
        lost: &lost,
        is_purged: purged_before_ms.is_some(),
    }
    .check(&mut positions);
    if purged > 0 {
        positions.note(format!("{purged} outcomes were counted whose claims have been purged"));
        not_provable += purged;
    }

    let mut letters = invariant(config, 4);
    let mut copies = Copies { unconsumed: unconsumed_copies, ..Copies::default() };
    progress(Progress { stage: Stage::DeadLetters, done: 0, of: 0 });
    let dlq_log = log::stream(
        &config.kafka,
        &config.dlq_topic,
        stretches(dlq.partitions.iter().map(|(start, end)| (*start, *end))),
        |record| record,
    );
    let dlq_topic = dead_letters::Topic {
        ends_before: dlq_before.partitions.iter().map(|(_, end)| *end).collect(),
        starts: dlq.partitions.iter().map(|(start, _)| *start).collect(),
    };
    dead_letters::read_topic(&mut snapshot, group, &dlq_topic, dlq_log, &mut copies, &mut letters)
        .await?;
    let outbox_before = awaited.as_ref().and_then(|awaited| awaited.outbox_before);
    let redriven_before = awaited.and_then(|awaited| awaited.redriven_before);
    merge.tally.outbox =
        dead_letters::read_outbox(&mut snapshot, outbox_before, &mut copies, &mut letters).await?;
    not_provable +=
        dead_letters::read_table(&mut snapshot, group, redriven_before, &copies, &mut letters)
            .await?;
    not_provable += dead_letters::read_past(&mut snapshot, group, &copies, &mut letters).await?;
    dead_letters::check_claims(&mut snapshot, group, &mut letters).await?;

    progress(Progress { stage: Stage::Projection, done: 0, of: 0 });
    not_provable += projection
        .compare(&mut snapshot, History { complete: complete && purged == 0 }, &mut tables)
        .await?;
    snapshot.rollback().await?;

    Ok(AuditReport {
        topic: topic.to_owned(),
        consumer_group: group.to_owned(),
        pending: merge.tally.unconsumed + merge.tally.waiting + merge.tally.outbox,
        tally: merge.tally,
        invariants: vec![merge.findings, tables, positions, letters, order.findings],
        not_provable,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn invariant(config: &AuditConfig, number: u8) -> Invariant {
    let (name, sentence) = match number {
        1 => ("outcomes", "every record that was consumed has exactly one outcome"),
        2 => ("tables", "the application's tables are what the applied events make of them"),
        3 => ("positions", "committed offset, next_offset and log end stand in this order"),
        4 => ("dead letters", "every dead letter has its row, its claim and its copy in the topic"),
        _ => ("order", "the events of one key were applied in the order of the log"),
    };
    Invariant::new(number, name, sentence, config.examples)
}

/// A database knows whose effects it holds; another group's audit would call them all wrong.
async fn check_scope(
    connection: &mut PgConnection,
    config: &AuditConfig,
) -> Result<(), AuditError> {
    let asked = (config.consumer_group.clone(), i16::from(FINGERPRINT_VERSION));
    let found = scope::find(connection).await?;
    match found.map(|found| (found.consumer_group, found.fingerprint_version)) {
        Some(found) if found != asked => {
            let text = |(group, version): &(String, i16)| {
                format!("the group {group} with fingerprints of version {version}")
            };
            Err(AuditError::OtherScope { asked: text(&asked), found: text(&found) })
        }
        _ => Ok(()),
    }
}

fn ranges(topic: &str, bounds: &Bounds, rows: &[ProgressRow], awaited: Option<&Awaited>) -> Ranges {
    let by_partition = (0..).zip(&bounds.partitions).map(|(partition, (start, end))| {
        let row = rows.iter().find(|row| row.partition == partition);
        let ends = awaited.map_or(&[][..], |awaited| &awaited.ends);
        Range {
            start: *start,
            end: *end,
            next_offset: row.map(|row| row.next_offset),
            accepted_batch_seq: row.map_or(0, |row| row.accepted_batch_seq),
            comparable: row.is_none_or(|row| row.topic_id == bounds.topic_id),
            awaited: usize::try_from(partition)
                .ok()
                .and_then(|at| ends.get(at))
                .copied()
                .unwrap_or(0),
        }
    });
    let is_given_up = |row: &&ProgressRow| {
        usize::try_from(row.partition).is_ok_and(|at| at >= bounds.partitions.len())
            && is_given_up(&row.topic_id, row.next_offset, &bounds.topic_id)
    };
    let given_up = rows.iter().filter(is_given_up);
    Ranges {
        topic: topic.to_owned(),
        by_partition: by_partition.collect(),
        given_up: given_up.map(|row| (row.partition, row.accepted_batch_seq)).collect(),
    }
}

fn stretches(bounds: impl ExactSizeIterator<Item = (i64, i64)>) -> Vec<Stretch> {
    numbers(bounds.len())
        .zip(bounds)
        .map(|(partition, (start, end))| Stretch { partition, start, end })
        .collect()
}

/// The walk along the log, beside the claims.
struct Walk<'a, P> {
    ranges: &'a Ranges,
    merge: Merge,
    order: KeyOrder,
    manifest: Option<Manifest>,
    first_unconsumed: BTreeMap<i32, i64>,
    /// Redriven copies that are still to be consumed.
    unconsumed_copies: HashSet<(Uuid, i32)>,
    projection: &'a mut P,
    /// Whether every applied event was seen.
    complete: bool,
}

impl<P: Projection> Walk<'_, P> {
    async fn read(
        &mut self,
        snapshot: &mut PgConnection,
        config: &AuditConfig,
        topic_id: &str,
        id_mode: IdMode,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), AuditError> {
        let group = config.consumer_group.as_str();
        // The records of a topic that was created anew say nothing about the offsets of the old.
        let to_read = stretches(self.ranges.by_partition.iter().map(|range| {
            if range.comparable { (range.start, range.end) } else { (range.end, range.end) }
        }));
        let of = to_read.iter().map(|stretch| stretch.end.abs_diff(stretch.start)).sum();
        let (topic_id, topic_id_of_log) = (topic_id.to_owned(), topic_id.to_owned());
        let mut log = log::stream(&config.kafka, &config.topic, to_read, move |record| {
            Seen::new(record, &topic_id, &id_mode)
        });
        store::open_claims(snapshot, group, &config.topic).await?;
        let mut done = 0;
        while let Some(batch) = log.next().await? {
            for seen in batch {
                while self.merge.wants_claims(&seen) {
                    self.merge.feed(store::next_claims(snapshot).await?);
                }
                self.record(&seen);
                done += 1;
            }
            if self.merge.unclaimed_len() >= LOOK_UP_RECORDS {
                self.look_up(snapshot, group, &topic_id_of_log).await?;
            }
            progress(Progress { stage: Stage::Log, done, of });
        }
        while !self.merge.is_exhausted() {
            self.merge.feed(store::next_claims(snapshot).await?);
            self.merge.finish(self.ranges);
        }
        self.merge.finish(self.ranges);
        self.look_up(snapshot, group, &topic_id_of_log).await?;
        self.check_queue(snapshot, group, &topic_id_of_log).await?;
        store::close_claims(snapshot).await?;
        if let Some(manifest) = &mut self.manifest {
            manifest.finish(self.ranges, &mut self.merge.findings);
        }
        self.complete = self.merge.not_provable == 0;
        Ok(())
    }

    fn record(&mut self, seen: &Seen) {
        match self.merge.record(seen, self.ranges) {
            Judgement::Unconsumed => {
                let ticket = Ticket::of(&seen.record);
                self.unconsumed_copies.extend(ticket.map(|ticket| (ticket.id.0, ticket.number)));
                self.first_unconsumed
                    .entry(seen.record.source.partition)
                    .or_insert(seen.record.offset);
            }
            Judgement::Claimed(claim) if claim.outcome == Outcome::Applied => {
                self.order.applied(seen, &claim);
                self.projection.apply(&Applied {
                    id: claim.id,
                    record: &seen.record,
                    batch_seq: claim.batch_seq,
                });
            }
            Judgement::Claimed(_) | Judgement::Elsewhere => {}
        }
        if let Some(manifest) = &mut self.manifest {
            manifest.record(seen, self.ranges, &mut self.merge.findings);
        }
    }

    async fn look_up(
        &mut self,
        snapshot: &mut PgConnection,
        group: &str,
        topic_id: &str,
    ) -> Result<(), sqlx::Error> {
        let unclaimed = self.merge.take_unclaimed();
        if unclaimed.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> =
            unclaimed.iter().flat_map(|record| [record.id.0, record.conflict_id.0]).collect();
        let holders = store::holders(snapshot, group, &ids).await?;
        let partitions: Vec<i32> = unclaimed.iter().map(|u| u.source.partition).collect();
        let offsets: Vec<i64> = unclaimed.iter().map(|u| u.offset).collect();
        let waiting = store::waiting(snapshot, group, topic_id, &partitions, &offsets).await?;
        self.merge.resolve(&unclaimed, &holders, &waiting, self.ranges);
        Ok(())
    }

    /// Every row of the retry queue is a record of the log that the consumer is past and that has
    /// no outcome: those were counted.
    async fn check_queue(
        &mut self,
        snapshot: &mut PgConnection,
        group: &str,
        topic_id: &str,
    ) -> Result<(), sqlx::Error> {
        let starts: Vec<i64> = self.ranges.by_partition.iter().map(|range| range.start).collect();
        let rows = store::count_waiting(snapshot, group, topic_id, &starts).await?;
        let waiting = self.merge.tally.waiting;
        self.merge.findings.checked += rows.unsigned_abs();
        if rows.unsigned_abs() != waiting {
            self.merge.findings.violation(|| {
                format!(
                    "the retry queue has {rows} messages, but only {waiting} of the records that \
                     the consumer is past are without an outcome and in it"
                )
            });
        }
        Ok(())
    }
}
