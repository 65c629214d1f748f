//! What the proxies do to connections.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fault::{Kind, Link, What};
use crate::proxy::Harm;
use crate::random::Random;
use crate::stage::Stage;

pub(super) async fn harm(stage: &Stage<'_>, what: What, lasts: Duration) -> anyhow::Result<()> {
    let What::Link(link, harm) = what else { return Ok(()) };
    stage.scene.proxy(link).harm(harm);
    sleep(lasts).await;
    stage.scene.proxy(link).harm(Harm::None);
    Ok(())
}

pub(super) async fn cut(
    stage: &Stage<'_>,
    what: What,
    lasts: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let What::Link(link, _) = what else { return Ok(()) };
    let deadline = Instant::now() + lasts;
    while Instant::now() < deadline {
        stage.scene.proxy(link).cut();
        sleep(Duration::from_millis(random.between(20, 700))).await;
    }
    Ok(())
}

pub(super) async fn cut_exactly(
    stage: &Stage<'_>,
    kind: Kind,
    what: What,
    lasts: Duration,
) -> anyhow::Result<()> {
    let What::Cut(cut, times) = what else { return Ok(()) };
    let link = match kind {
        Kind::CommitCut => Link::ConsumerToDatabase,
        _ => Link::ProducerToBroker,
    };
    let proxy = stage.scene.proxy(link);
    proxy.cut_at_next(cut, times);
    sleep(lasts).await;
    let left = proxy.call_cuts_off();
    stage.timeline.note(format!("cut at {} of {times}", times as usize - left));
    Ok(())
}
