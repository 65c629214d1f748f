//! All strategies, in the order of the table.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::strategy::{
    AdvisoryLock, CheckThenInsert, DatabaseWrite, HttpCall, KafkaTransactions, MarkBefore,
    NaiveOffsetAfter, NaiveOffsetBefore, NoDeadLetter, Nothing, OffsetInDatabase, RedisLock,
    RedisLockFenced, RowLock, Serializable, TextbookClaim, Upsert, UpsertGuarded,
};
use crate::worker::{self, Besides, Finished, Strategy, Until, Worker};

/// What the others are compared with.
pub(crate) const OURS: &str = "unique-claim";

pub(crate) type Run = fn(Worker, Until) -> BoxFuture<'static, anyhow::Result<Finished>>;

/// A strategy as the harness knows it.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) ddl: &'static str,
    pub(crate) steps: &'static [&'static str],
    pub(crate) under_lock: &'static [&'static str],
    pub(crate) needs_group: &'static [&'static str],
    besides: Besides,
    /// `None`: the engine, in processes of its own.
    pub(crate) run: Option<Run>,
}

impl Entry {
    pub(crate) fn is_engine(&self) -> bool {
        self.run.is_none()
    }

    pub(crate) fn needs_redis(&self) -> bool {
        self.besides == Besides::Redis
    }

    /// Judged by its output topic and not by the database.
    pub(crate) fn is_topic_to_topic(&self) -> bool {
        self.besides == Besides::OutputTopic
    }

    /// Its effect is that of a service.
    pub(crate) fn needs_service(&self) -> bool {
        self.besides == Besides::Service
    }

    /// Besides Kafka and PostgreSQL.
    pub(crate) fn extra_servers(&self) -> &'static str {
        if self.needs_redis() { "Redis" } else { "-" }
    }
}

fn entry<S: Strategy>() -> Entry {
    Entry {
        name: S::NAME,
        what: S::WHAT,
        ddl: S::DDL,
        steps: S::STEPS,
        under_lock: S::UNDER_LOCK,
        needs_group: S::NEEDS_GROUP,
        besides: S::BESIDES,
        run: Some(|worker, until| worker::run::<S>(worker, until).boxed()),
    }
}

fn engine() -> Entry {
    Entry {
        name: OURS,
        what: "this repository's engine: batches of claims in the transaction of their effects",
        ddl: "",
        steps: &["after_claim", "after_effect"],
        under_lock: &["after_claim", "after_effect"],
        needs_group: &[],
        besides: Besides::Nothing,
        run: None,
    }
}

pub(crate) fn all() -> Vec<Entry> {
    vec![
        entry::<NaiveOffsetBefore>(),
        entry::<NaiveOffsetAfter>(),
        entry::<NoDeadLetter>(),
        entry::<CheckThenInsert>(),
        entry::<MarkBefore>(),
        engine(),
        entry::<TextbookClaim>(),
        entry::<Upsert>(),
        entry::<UpsertGuarded>(),
        entry::<RowLock>(),
        entry::<Serializable>(),
        entry::<AdvisoryLock>(),
        entry::<RedisLock>(),
        entry::<RedisLockFenced>(),
        entry::<OffsetInDatabase>(),
        entry::<KafkaTransactions<Nothing>>(),
        entry::<KafkaTransactions<DatabaseWrite>>(),
        entry::<KafkaTransactions<HttpCall>>(),
    ]
}
