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

/// The engine's migrations and behind them an application's own, each with a tracking table.
pub struct Migrations {
    /// Each with its tracking table, in the order in which they are applied.
    parts: [(Migrator, &'static str); 2],
    command: &'static str,
}

/// Why an application cannot work with the tables that there are.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// They are newer than the application, or cannot be asked.
    #[error("the database's tables do not fit this program")]
    NoFit(#[from] MigrateError),
    /// They are older.
    #[error("{place} lacks migrations ({missing}); run `{command}` first")]
    Lacks {
        /// Where they are.
        place: String,
        /// Versions and descriptions.
        missing: String,
        /// What applies them.
        command: &'static str,
    },
}

impl Migrations {
    /// `own`, noted in the table `tracking_table`; `command` is what a user runs to apply them.
    pub fn with(mut own: Migrator, tracking_table: &'static str, command: &'static str) -> Self {
        own.dangerous_set_table_name(tracking_table);
        Self { parts: [(engine(), TRACKING_TABLE), (own, tracking_table)], command }
    }

    /// The SQL of all, for tools that apply it themselves.
    pub fn sql(&self) -> String {
        self.parts.iter().map(|(migrator, _)| sql(migrator)).collect()
    }

    /// Applies what is missing, and returns it.
    ///
    /// # Errors
    /// The database does not answer or refuses.
    pub async fn apply(&self, pool: &PgPool) -> Result<Vec<String>, MigrateError> {
        let missing = self.pending(pool).await?;
        for (migrator, _) in &self.parts {
            migrator.run(pool).await?;
        }
        Ok(missing)
    }

    /// Refuses tables of another version. `place` is where they are, such as "the database".
    ///
    /// # Errors
    /// They are older or newer, or cannot be asked.
    pub async fn check(&self, pool: &PgPool, place: &str) -> Result<(), SchemaError> {
        let missing = self.pending(pool).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let (place, missing) = (place.to_owned(), missing.join(", "));
        Err(SchemaError::Lacks { place, missing, command: self.command })
    }

    async fn pending(&self, pool: &PgPool) -> Result<Vec<String>, MigrateError> {
        let mut connection = pool.acquire().await?;
        let mut missing = Vec::new();
        for (migrator, table) in &self.parts {
            missing.extend(pending(migrator, table, &mut connection).await?);
        }
        Ok(missing)
    }
}
