//! `migrate`: the engine's tables and the orders' tables.

use std::process::ExitCode;

use anyhow::Context as _;
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
    let left_out = grant_rights(&pool).await.context("the programs' roles")?;
    if !left_out.is_empty() {
        eprint!("{}", without_roles(&left_out));
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives each program's role its rights; returns the roles that are missing and that this user may
/// not make.
async fn grant_rights(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT grant_order_pipeline_rights()").fetch_all(pool).await
}

fn without_roles(missing: &[String]) -> String {
    let create: String =
        missing.iter().flat_map(|role| ["  CREATE ROLE ", role, " NOLOGIN;\n"]).collect();
    format!(
        "left out: the roles {}, since this database user may not create roles. Nothing else needs \
         them: the programs work as the tables' owner. To have them, let somebody who may\n\
         {create}and run `order-consumer migrate` again, which gives them their rights\n",
        missing.join(", ")
    )
}

/// The migrations that the database lacks.
pub(crate) async fn pending(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let mut connection = pool.acquire().await?;
    let mut missing =
        migrate::pending(&migrate::engine(), migrate::TRACKING_TABLE, &mut connection).await?;
    missing.extend(migrate::pending(&orders(), TRACKING_TABLE, &mut connection).await?);
    Ok(missing)
}
