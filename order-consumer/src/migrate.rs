//! `migrate`: the engine's tables and the orders' tables.

use std::process::ExitCode;

use clap::Args;
use idempotent_consumer::migrate;
use sqlx::PgPool;
use sqlx::migrate::Migrator;

use crate::cli::DatabaseArgs;

const TRACKING_TABLE: &str = "_order_migrations";

/// Arguments of `migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the SQL instead of applying it, for another migration tool
    #[arg(long)]
    print_sql: bool,
}

fn orders() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/orders");
    migrator.dangerous_set_table_name(TRACKING_TABLE);
    migrator
}

/// Applies all migrations.
pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.print_sql {
        print!("{}{}", migrate::sql(&migrate::engine()), migrate::sql(&orders()));
        return Ok(ExitCode::SUCCESS);
    }
    let pool = args.database.pool().await?;
    let missing = pending(&pool).await?;
    migrate::apply(&pool).await?;
    orders().run(&pool).await?;
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
    missing.extend(migrate::pending(&orders(), TRACKING_TABLE, &mut connection).await?);
    Ok(missing)
}
