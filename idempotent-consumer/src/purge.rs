//! Retention of claims: old ones leave, so that the table stays as small as the dedup window.
//!
//! Several purges at once are safe, beside working consumers too: each step is a transaction that
//! finds what is left to do by itself, and locks a leaf for milliseconds or not at all. The age is
//! that of the database's clock. Which window is long enough, and what becomes of older messages:
//! [`window`].

use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;

use crate::failure::sqlstate;
use crate::kafka::admin::{AdminError, Topics};
use crate::kafka::settings::KafkaSettings;
use crate::store::retention;
pub use crate::store::retention::Purgeable;
use crate::window::{self, MARGIN, WindowRefused};

/// How long a step waits for a lock, while others wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(50);

/// How long a step waits for a lock behind which nobody else waits. More than `deadlock_timeout`,
/// after which a vacuum gives way.
const PATIENT_LOCK_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a leaf is tried before it is left for the next purge.
const ATTEMPTS: u32 = 200;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Blocks of a leaf from which one transaction deletes: a few thousand claims.
const BLOCKS: i64 = 64;

/// How long a purge waits for batches that began before it.
const BATCHES_TIMEOUT: Duration = Duration::from_mins(2);

/// Why nothing was purged, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// Kafka cannot be reached, or does not tell.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// The window is not long enough.
    #[error(transparent)]
    Refused(#[from] WindowRefused),
    /// PostgreSQL cannot be reached or refuses.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The database's user does not own the tables.
    #[error(
        "the database's user {0} does not own the claims, and who may empty a range of them can have \
         everything applied again; purge as the user that runs `migrate`"
    )]
    NotOwner(String),
    /// A transaction that does not know of the purge does not end.
    #[error("a batch that began before the purge is still open after {} s; nothing was purged", .0.as_secs())]
    OldBatch(Duration),
}

/// What a purge did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Leaves that were emptied.
    pub emptied: Vec<Emptied>,
    /// Claims deleted from other leaves.
    pub deleted: i64,
    /// Leaves that somebody held all the time; the next purge finds them again.
    pub busy: Vec<String>,
}

/// A leaf that was emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Emptied {
    /// Which.
    pub leaf: String,
    /// Claims that stayed: young ones, and those of dead letters.
    pub kept: i64,
}

/// Checks the window against the topics' retention, as the broker has it now.
///
/// # Errors
/// A record may be read again after its claim is gone, or the broker does not tell.
pub async fn check_window(
    kafka: &KafkaSettings,
    topics: [&str; 2],
    window: Duration,
    timeout: Duration,
) -> Result<(), PurgeError> {
    let admin = Topics::new(kafka, timeout)?;
    for topic in topics {
        window::check(window, &admin.retention(topic).await?)?;
    }
    Ok(())
}

/// The window that was recorded last, by a consumer or a purge.
///
/// # Errors
/// The database does not answer.
pub async fn recorded_window(
    connection: &mut PgConnection,
) -> Result<Option<Duration>, sqlx::Error> {
    retention::recorded_window(connection).await
}

/// Records a window that was [checked](check_window), and makes ranges for the time to come.
///
/// # Errors
/// The database does not answer.
pub(crate) async fn adopt(
    connection: &mut PgConnection,
    window: Duration,
) -> Result<(), sqlx::Error> {
    retention::record_window(connection, window).await?;
    for (year, by_week) in retention::years_to_exchange(connection).await? {
        match retention::exchange_year(connection, year, by_week, LOCK_TIMEOUT).await {
            Ok(true) => tracing::info!(year, by_week, "claims of this year have new ranges"),
            Ok(false) => {}
            // There is half a year's time for it.
            Err(error) if is_lock_timeout(&error) => {
                tracing::info!(year, "no new ranges yet: somebody reads the claims");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What [`purge`] would take now.
///
/// # Errors
/// The database does not answer, or its user is not the claims' owner.
pub async fn preview(
    connection: &mut PgConnection,
    window: Duration,
) -> Result<Vec<Purgeable>, PurgeError> {
    check_owner(connection).await?;
    let cutoff = retention::cutoff(connection, window, MARGIN).await?;
    Ok(retention::purgeable(connection, cutoff).await?)
}

/// Before anything is recorded: from then on claims count as gone.
async fn check_owner(connection: &mut PgConnection) -> Result<(), PurgeError> {
    match retention::stranger(connection).await? {
        Some(user) => Err(PurgeError::NotOwner(user)),
        None => Ok(()),
    }
}

/// Takes the claims that are older than a window that was [checked](check_window). `announce` is
/// told beforehand what goes.
///
/// # Errors
/// The database's user is not the claims' owner, or the database does not answer: then what is done
/// stays done, and a further purge goes on.
pub async fn purge(
    connection: &mut PgConnection,
    window: Duration,
    announce: impl FnOnce(&[Purgeable]),
) -> Result<Purged, PurgeError> {
    check_owner(connection).await?;
    adopt(connection, window).await?;
    let cutoff = retention::cutoff(connection, window, MARGIN).await?;
    retention::record_purge(connection, cutoff).await?;
    wait_for_running_batches(connection).await?;
    match retention::summarize(connection, cutoff, PATIENT_LOCK_TIMEOUT).await {
        Err(error) if !is_lock_timeout(&error) => return Err(error.into()),
        _ => {}
    }
    let found = retention::purgeable(connection, cutoff).await?;
    announce(&found);
    let mut purged = Purged::default();
    for Purgeable { leaf, is_whole, .. } in found {
        if !is_whole {
            purged.deleted += delete(connection, &leaf, cutoff).await?;
            continue;
        }
        match empty(connection, &leaf, cutoff).await? {
            Some(Some(kept)) => purged.emptied.push(Emptied { leaf, kept }),
            Some(None) => {}
            None => purged.busy.push(leaf),
        }
    }
    Ok(purged)
}

/// Every batch that begins from here on knows what may be gone. One that is open could apply what
/// it takes.
async fn wait_for_running_batches(connection: &mut PgConnection) -> Result<(), PurgeError> {
    let before = retention::running_batches(connection).await?;
    let began = Instant::now();
    while !before.is_empty() {
        let now = retention::running_batches(connection).await?;
        if !before.iter().any(|batch| now.contains(batch)) {
            break;
        }
        if began.elapsed() > BATCHES_TIMEOUT {
            return Err(PurgeError::OldBatch(BATCHES_TIMEOUT));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// `None` if the leaf was never free.
async fn empty(
    connection: &mut PgConnection,
    leaf: &str,
    cutoff: OffsetDateTime,
) -> Result<Option<Option<i64>>, sqlx::Error> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
        match retention::empty_leaf(connection, leaf, cutoff, LOCK_TIMEOUT).await {
            Err(error) if is_lock_timeout(&error) => {}
            done => return done.map(Some),
        }
    }
    Ok(None)
}

async fn delete(
    connection: &mut PgConnection,
    leaf: &str,
    cutoff: OffsetDateTime,
) -> Result<i64, sqlx::Error> {
    let (mut deleted, mut block) = (0, 0);
    while let Some(gone) = retention::delete_claims(connection, leaf, cutoff, block, BLOCKS).await?
    {
        deleted += gone;
        block += BLOCKS;
    }
    Ok(deleted)
}

/// `lock_not_available`, or the victim of a deadlock with another purge.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("55P03" | "40P01"))
}
