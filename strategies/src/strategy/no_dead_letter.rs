//! Deduplication without a place for what can never be applied: the textbook's claim, and on one
//! record of garbage it fails, begins again there, and fails.

use super::textbook_claim::{DDL, TextbookClaim};
use crate::stream::{Order, Poison};
use crate::worker::{Strategy, Worker};

pub(crate) struct NoDeadLetter(TextbookClaim);

impl Strategy for NoDeadLetter {
    const NAME: &'static str = "no-dead-letter";
    const WHAT: &'static str = "textbook-claim that tries a poison record for ever";
    const DDL: &'static str = DDL;
    const STEPS: &'static [&'static str] = TextbookClaim::STEPS;
    const UNDER_LOCK: &'static [&'static str] = TextbookClaim::UNDER_LOCK;

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self(TextbookClaim))
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        self.0.process(worker, order).await
    }

    async fn poison(&mut self, _: &mut Worker, _: &Poison) -> anyhow::Result<bool> {
        Ok(false)
    }
}
