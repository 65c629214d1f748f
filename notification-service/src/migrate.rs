//! `migrate`: the engine's tables and ours, in a schema of their own: one database holds the effects of
//! one group a schema, and the orders' are in another.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use idempotent_consumer::migrate;
use sqlx::PgPool;
use sqlx::migrate::Migrator;

use crate::cli::DatabaseArgs;

const TRACKING_TABLE: &str = "_notification_migrations";

/// Arguments of `migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the SQL instead of applying it, for another migration tool
    #[arg(long)]
    print_sql: bool,
}

fn notifications() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/notifications");
    migrator.dangerous_set_table_name(TRACKING_TABLE);
    migrator
}

/// Creates the schema if need be, and applies all migrations.
pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let create = args.database.create_schema_sql();
    if args.print_sql {
        let schema = &args.database.schema;
        println!("{create};\nSET search_path = {schema};");
        print!("{}{}", migrate::sql(&migrate::engine()), migrate::sql(&notifications()));
        return Ok(ExitCode::SUCCESS);
    }
    let pool = args.database.pool().await?;
    // The schema's name has been checked to be a plain one.
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(&pool)
        .await
        .context("cannot create the schema; may this role create one in the database?")?;
    let missing = pending(&pool).await?;
    migrate::apply(&pool).await?;
    notifications().run(&pool).await?;
    if missing.is_empty() {
        eprintln!("the database is up to date");
    }
    for migration in missing {
        eprintln!("applied {migration}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The migrations that the database lacks.
pub(crate) async fn pending(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let mut connection = pool.acquire().await?;
    let mut missing =
        migrate::pending(&migrate::engine(), migrate::TRACKING_TABLE, &mut connection).await?;
    missing.extend(migrate::pending(&notifications(), TRACKING_TABLE, &mut connection).await?);
    Ok(missing)
}
