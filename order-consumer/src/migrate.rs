//! `migrate`: the engine's tables and the orders' tables.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use idempotent_consumer::cli::{tell_applied, tell_missing_roles};
use idempotent_consumer::migrate::Migrations;
use sqlx::PgPool;

use crate::cli::DatabaseArgs;

/// Arguments of `migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the SQL instead of applying it, for another migration tool
    #[arg(long)]
    print_sql: bool,
}

/// What this version's tables are made by.
pub(crate) fn migrations() -> Migrations {
    let orders = sqlx::migrate!("../migrations/orders");
    Migrations::with(orders, "_order_migrations", "order-consumer migrate")
}

/// Applies all migrations.
pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.print_sql {
        print!("{}", migrations().sql());
        return Ok(ExitCode::SUCCESS);
    }
    let pool = args.database.pool().await?;
    tell_applied(&migrations().apply(&pool).await?);
    let missing = grant_rights(&pool).await.context("the programs' roles")?;
    tell_missing_roles(&missing, "order-consumer migrate");
    Ok(ExitCode::SUCCESS)
}

/// Gives each program's role its rights; returns the roles that are missing and that this user may
/// not make.
async fn grant_rights(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT grant_order_pipeline_rights()").fetch_all(pool).await
}
