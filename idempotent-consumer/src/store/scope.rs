//! One dedup scope a database: group, id mode and fingerprint version, recorded by the first run.

use sqlx::{PgConnection, Row};

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
    let row = sqlx::query("SELECT consumer_group, id_mode, fingerprint_version FROM dedup_scope")
        .fetch_one(connection)
        .await?;
    Ok(Scope {
        consumer_group: row.try_get("consumer_group")?,
        id_mode: row.try_get("id_mode")?,
        fingerprint_version: row.try_get("fingerprint_version")?,
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
