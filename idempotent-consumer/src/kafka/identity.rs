//! Which log records were read from, as brokers tell it.
//!
//! A topic that is deleted and created anew keeps its name, and the client goes on in the middle of
//! the new log without a word. A fetch does not say which of the two it read. So the topic's id is
//! asked *after* the records came in, while the database works on them, and before they commit: if
//! it is still the old one, so was the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Mutex;

use super::facts::Facts;

/// The id of one topic, asked by one task at a time: whoever waits meanwhile shares the next answer.
pub(crate) struct TopicIdentity {
    facts: Arc<Facts>,
    topic: String,
    /// Below every limit of a transaction, which is open meanwhile, and of those that wait for its
    /// locks: a message is not to blame for a broker.
    patience: Duration,
    /// When the latest question was put, and its answer; `None` if the topic does not exist.
    latest: Mutex<Option<(Instant, Option<String>)>>,
}

/// The topic's id as of some moment, or why it is not known.
pub(crate) type Confirmation = Shared<BoxFuture<'static, Result<Option<String>, String>>>;

impl TopicIdentity {
    pub(crate) fn new(facts: Arc<Facts>, topic: String, patience: Duration) -> Self {
        Self { facts, topic, patience, latest: Mutex::new(None) }
    }

    /// Begins to ask for the id, unless somebody begins to from now on. Goes on by itself.
    pub(crate) fn as_of_now(self: &Arc<Self>) -> Confirmation {
        let (this, now) = (Arc::clone(self), Instant::now());
        let asked = async move {
            tokio::time::timeout(this.patience, this.since(now))
                .await
                .unwrap_or_else(|_| Err("the brokers do not answer".to_owned()))
        };
        let confirmation = asked.boxed().shared();
        tokio::spawn(confirmation.clone());
        confirmation
    }

    async fn since(&self, moment: Instant) -> Result<Option<String>, String> {
        let mut latest = self.latest.lock().await;
        if let Some((asked, answer)) = &*latest
            && *asked >= moment
        {
            return Ok(answer.clone());
        }
        let asked = Instant::now();
        let (facts, topic) = (Arc::clone(&self.facts), self.topic.clone());
        let answer = tokio::task::spawn_blocking(move || facts.topics.id(&topic))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        *latest = Some((asked, answer.clone()));
        Ok(answer)
    }
}
