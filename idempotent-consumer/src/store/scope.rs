//! One dedup scope a database: group, id mode and fingerprint version, recorded by the first run.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::identity::{IdMode, IdModeError};

/// What a database's claims mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub consumer_group: String,
    pub id_mode: String,
    pub fingerprint_version: i16,
}

/// Records `scope` if none is recorded; returns what is recorded now.
pub(crate) async fn record(
    connection: &mut PgConnection,
    scope: &Scope,
) -> Result<Scope, sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO dedup_scope (consumer_group, id_mode, fingerprint_version)
        VALUES ($1, $2, $3)
            ON CONFLICT DO NOTHING
        ",
    )
    .bind(&scope.consumer_group)
    .bind(&scope.id_mode)
    .bind(scope.fingerprint_version)
    .execute(&mut *connection)
    .await?;
    find(connection).await?.ok_or(sqlx::Error::RowNotFound)
}

/// What is recorded; `None` before the first run.
pub(crate) async fn find(connection: &mut PgConnection) -> Result<Option<Scope>, sqlx::Error> {
    sqlx::query("SELECT consumer_group, id_mode, fingerprint_version FROM dedup_scope")
        .try_map(|row: PgRow| {
            Ok(Scope {
                consumer_group: row.try_get("consumer_group")?,
                id_mode: row.try_get("id_mode")?,
                fingerprint_version: row.try_get("fingerprint_version")?,
            })
        })
        .fetch_optional(connection)
        .await
}

/// How the claims here identify records; the default before the first run.
pub(crate) async fn id_mode(connection: &mut PgConnection) -> Result<IdMode, sqlx::Error> {
    let Some(Scope { id_mode, .. }) = find(connection).await? else {
        return Ok(IdMode::default());
    };
    id_mode.parse().map_err(|error: IdModeError| {
        let text = format!("the id mode {id_mode:?} of dedup_scope is not known: {error}");
        sqlx::Error::Decode(text.into())
    })
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "group {} with ids from {} and fingerprint version {}",
            self.consumer_group, self.id_mode, self.fingerprint_version
        )
    }
}
