//! The dead letter topic is in the way. It is so before the first dead letter, since what was in a
//! topic is gone with it, and nobody can be asked to bring it back.

use std::time::Duration;

use tokio::time::sleep;

use crate::stage::Stage;

pub(super) async fn delete(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    stage
        .patiently("the topic away", async || stage.admin().delete(&stage.dlq_topic).await)
        .await?;
    stage.has_begun();
    sleep(lasts).await;
    stage
        .patiently("the topic again", async || stage.admin().create(&stage.dlq_topic, 1).await)
        .await
}

pub(super) async fn refuse(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    stage.patiently("an ACL", async || stage.admin().refuse_writes(&stage.dlq_topic).await).await?;
    stage.has_begun();
    sleep(lasts).await;
    stage
        .patiently("the ACL away", async || stage.admin().allow_writes(&stage.dlq_topic).await)
        .await
}

pub(super) async fn shrink(stage: &Stage<'_>, lasts: Duration) -> anyhow::Result<()> {
    set_largest(stage, "900").await?;
    stage.has_begun();
    sleep(lasts).await;
    set_largest(stage, "1048588").await
}

async fn set_largest(stage: &Stage<'_>, bytes: &str) -> anyhow::Result<()> {
    stage
        .patiently("a topic of another size", async || {
            stage.admin().set_largest(&stage.dlq_topic, bytes).await
        })
        .await
}
