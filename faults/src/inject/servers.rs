//! Servers die, go back in time, and have no room left.

use std::time::Duration;

use anyhow::Context as _;
use local_stack::StackError;
use tokio::time::sleep;

use crate::stage::Stage;

/// Runs what blocks, without holding up the rest.
fn blocking(work: impl FnOnce() -> Result<(), StackError>) -> anyhow::Result<()> {
    Ok(tokio::task::block_in_place(work)?)
}

pub(super) async fn kill_broker(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    let _turn = stage.scene.broker.lock().await;
    let kafka = stage.scene.stack.kafka();
    tokio::task::block_in_place(|| kafka.kill());
    sleep(lasts).await;
    blocking(|| kafka.start())
}

pub(super) async fn kill_database(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    let _turn = stage.scene.database.lock().await;
    let postgres = stage.scene.stack.postgres();
    tokio::task::block_in_place(|| postgres.kill());
    sleep(lasts).await;
    blocking(|| postgres.start())
}

pub(super) async fn set_back(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    let _turn = stage.scene.database.lock().await;
    let (stack, kept) = (&stage.scene.stack, stage.scene.stack.folder().join("kept"));
    blocking(|| stack.postgres().snapshot(&kept))?;
    stage.timeline.note("the state of the database is kept");
    sleep(lasts).await;
    blocking(|| stack.postgres().restore(&kept))
}

pub(super) async fn fill_disk(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    let mount = stage.scene.mount.as_ref().context("there is no small mount")?;
    tokio::task::block_in_place(|| mount.fill())?;
    sleep(lasts).await;
    Ok(mount.empty()?)
}
