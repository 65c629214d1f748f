//! The engine's migrations, with a tracking table of their own, so that they live beside an
//! application's.

use std::collections::HashMap;
use std::fmt::Write as _;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{PgConnection, PgPool};

/// Where the engine notes which of its migrations are applied.
pub const TRACKING_TABLE: &str = "_idempotent_consumer_migrations";

/// The engine's migrations. Apply them to a schema of your own by the connection's `search_path`.
pub fn engine() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name(TRACKING_TABLE);
    migrator
}

/// The SQL of all migrations, for tools that apply it themselves.
pub fn sql(migrator: &Migrator) -> String {
    let mut out = String::new();
    for migration in migrator.iter() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "-- {:04} {}", migration.version, migration.description);
        let _ = writeln!(out, "{}", migration.sql.as_str());
    }
    out
}

/// Versions and descriptions that the database lacks.
///
/// # Errors
/// The database does not answer, or holds a migration that this program does not know.
pub async fn pending(
    migrator: &Migrator,
    tracking_table: &str,
    connection: &mut PgConnection,
) -> Result<Vec<String>, MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(tracking_table)
        .fetch_one(&mut *connection)
        .await?;
    let applied: HashMap<i64, Vec<u8>> = if exists {
        connection
            .list_applied_migrations(tracking_table)
            .await?
            .into_iter()
            .map(|applied| (applied.version, applied.checksum.into_owned()))
            .collect()
    } else {
        HashMap::new()
    };
    if let Some(unknown) = applied.keys().find(|version| !migrator.version_exists(**version)) {
        return Err(MigrateError::VersionMissing(*unknown));
    }
    Ok(migrator
        .iter()
        .filter(|migration| !applied.contains_key(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

/// Applies the engine's migrations.
///
/// # Errors
/// The database does not answer or refuses.
pub async fn apply(pool: &PgPool) -> Result<(), MigrateError> {
    engine().run(pool).await
}
