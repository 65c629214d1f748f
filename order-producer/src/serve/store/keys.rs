//! API keys.

use sqlx::postgres::PgRow;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};

/// A row of `api_keys`.
#[derive(Debug, Clone)]
pub(in crate::serve) struct KeyRow {
    pub(in crate::serve) key_id: String,
    pub(in crate::serve) client: String,
    pub(in crate::serve) secret_sha256: Vec<u8>,
    pub(in crate::serve) scopes: Vec<String>,
    pub(in crate::serve) created_at: OffsetDateTime,
    pub(in crate::serve) revoked_at: Option<OffsetDateTime>,
}

fn key_row(row: &PgRow) -> Result<KeyRow, sqlx::Error> {
    Ok(KeyRow {
        key_id: row.try_get("key_id")?,
        client: row.try_get("client")?,
        secret_sha256: row.try_get("secret_sha256")?,
        scopes: row.try_get("scopes")?,
        created_at: row.try_get("created_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

/// The key of this id, revoked or not.
pub(in crate::serve) async fn find_key(
    connection: &mut PgConnection,
    key_id: &str,
) -> Result<Option<KeyRow>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT key_id, client, secret_sha256, scopes, created_at, revoked_at
          FROM api_keys
         WHERE key_id = $1
        ",
    )
    .bind(key_id)
    .try_map(|row: PgRow| key_row(&row))
    .fetch_optional(connection)
    .await
}

/// All keys, the oldest first.
pub(in crate::serve) async fn list_keys(
    connection: &mut PgConnection,
) -> Result<Vec<KeyRow>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT key_id, client, secret_sha256, scopes, created_at, revoked_at
          FROM api_keys
         ORDER BY created_at, key_id
        ",
    )
    .try_map(|row: PgRow| key_row(&row))
    .fetch_all(connection)
    .await
}

/// Adds a key.
pub(in crate::serve) async fn create_key(
    connection: &mut PgConnection,
    key_id: &str,
    client: &str,
    secret_sha256: &[u8],
    scopes: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO api_keys (key_id, client, secret_sha256, scopes)
        VALUES ($1, $2, $3, $4)
        ",
    )
    .bind(key_id)
    .bind(client)
    .bind(secret_sha256)
    .bind(scopes)
    .execute(connection)
    .await?;
    Ok(())
}

/// Revokes a key; `false` if there is none, or it was revoked before.
pub(in crate::serve) async fn revoke_key(
    connection: &mut PgConnection,
    key_id: &str,
) -> Result<bool, sqlx::Error> {
    let revoked = sqlx::query(
        r"
        UPDATE api_keys
           SET revoked_at = now()
         WHERE key_id = $1 AND revoked_at IS NULL
        ",
    )
    .bind(key_id)
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}
