//! `migrate`: the engine's tables and ours, in a schema of their own: one database holds the effects of
//! one group a schema, and the orders' are in another.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use idempotent_consumer::cli::{tell_applied, tell_missing_roles};
use idempotent_consumer::migrate::Migrations;

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
    let notifications = sqlx::migrate!("../migrations/notifications");
    Migrations::with(notifications, "_notification_migrations", "notification-service migrate")
}

/// Creates the schema if need be, and applies all migrations.
pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let create = args.database.create_schema_sql();
    if args.print_sql {
        let schema = &args.database.schema;
        println!("{create};\nSET search_path = {schema};");
        print!("{}", migrations().sql());
        return Ok(ExitCode::SUCCESS);
    }
    let pool = args.database.pool().await?;
    // The schema's name has been checked to be a plain one.
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(&pool)
        .await
        .context("cannot create the schema; may this role create one in the database?")?;
    tell_applied(&migrations().apply(&pool).await?);
    let missing: Vec<String> = sqlx::query_scalar("SELECT grant_notifier_rights()")
        .fetch_all(&pool)
        .await
        .context("the service's role")?;
    tell_missing_roles(&missing, "notification-service migrate");
    Ok(ExitCode::SUCCESS)
}
