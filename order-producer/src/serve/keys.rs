//! `order-producer keys`: who may use the HTTP API.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::auth::{ApiKey, Scope};
use super::{DatabaseArgs, schema, store};
use crate::Exit;
use crate::cli::{App, Format};
use crate::output::say;

const CLIENT_CHARS_MAX: usize = 64;

/// `order-producer keys`
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown this once
    Create(CreateArgs),
    /// List keys, without their secrets
    List(ListArgs),
    /// Revoke a key; requests with it are refused from then on
    Revoke(RevokeArgs),
}

/// `order-producer keys create`
#[derive(Args)]
pub struct CreateArgs {
    /// Who gets it. Idempotency-Keys belong to the client, whichever of its API keys it uses
    #[arg(
        long,
        env = "ORDER_PRODUCER_CLIENT",
        value_name = "NAME",
        value_parser = parse_client,
        hide_env_values = true
    )]
    client: String,

    /// What it allows; again for more
    #[arg(
        long,
        env = "ORDER_PRODUCER_SCOPE",
        value_delimiter = ',',
        default_values = ["orders:read", "orders:write"],
        hide_env_values = true
    )]
    scope: Vec<Scope>,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// `order-producer keys list`
#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// `order-producer keys revoke`
#[derive(Args)]
pub struct RevokeArgs {
    /// Id of the key, as `list` shows it
    #[arg(value_name = "KEY_ID", env = "ORDER_PRODUCER_KEY_ID", hide_env_values = true)]
    key_id: String,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// How results are printed, as an argument.
#[derive(Args, Clone, Copy)]
struct OutputArgs {
    /// How results are printed
    #[arg(
        short,
        long,
        env = "ORDER_PRODUCER_OUTPUT",
        default_value = "table",
        value_name = "FORMAT",
        hide_env_values = true
    )]
    output: Format,
}

fn parse_client(text: &str) -> Result<String, String> {
    let is_name = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text.len() > CLIENT_CHARS_MAX || !is_name || text == super::guard::NOBODY
    {
        return Err(format!(
            "a client's name is 1 to {CLIENT_CHARS_MAX} visible ASCII characters, and not {:?}",
            super::guard::NOBODY
        ));
    }
    Ok(text.to_owned())
}

/// A line on stdout. Who closes it early gets an error and no panic.
fn print(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

#[derive(Serialize)]
struct Listed {
    key_id: String,
    client: String,
    scopes: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

impl KeysCommand {
    pub(crate) fn run(&self, app: &App) -> anyhow::Result<Exit> {
        app.runtime.block_on(async {
            match self {
                Self::Create(args) => args.run().await,
                Self::List(args) => args.run().await,
                Self::Revoke(args) => args.run().await,
            }
        })
    }
}

impl CreateArgs {
    async fn run(&self) -> anyhow::Result<Exit> {
        let pool = self.database.pool().await?;
        schema::check(&pool).await?;
        let key = ApiKey::random();
        let mut scopes: Vec<&str> = self.scope.iter().map(|scope| scope.as_str()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let mut connection = pool.acquire().await?;
        store::create_key(&mut connection, &key.id, &self.client, &key.hash(), &scopes).await?;
        match self.output.output {
            Format::Table => print(&key.reveal())?,
            Format::Json | Format::Jsonl => print(
                &serde_json::json!({
                    "key": key.reveal(),
                    "key_id": key.id,
                    "client": self.client,
                    "scopes": scopes,
                })
                .to_string(),
            )?,
        }
        say!("key {} of {}; it is not shown again", key.id, self.client);
        Ok(Exit::Done)
    }
}

impl ListArgs {
    async fn run(&self) -> anyhow::Result<Exit> {
        let pool = self.database.pool().await?;
        schema::check(&pool).await?;
        let mut connection = pool.acquire().await?;
        let listed = |row: store::KeyRow| Listed {
            key_id: row.key_id,
            client: row.client,
            scopes: row.scopes,
            created_at: row.created_at,
            revoked_at: row.revoked_at,
        };
        let rows: Vec<Listed> =
            store::list_keys(&mut connection).await?.into_iter().map(listed).collect();
        match self.output.output {
            Format::Json => print(&serde_json::to_string_pretty(&rows)?)?,
            Format::Jsonl => {
                for row in &rows {
                    print(&serde_json::to_string(row)?)?;
                }
            }
            Format::Table => {
                for row in &rows {
                    let state = if row.revoked_at.is_some() { "revoked" } else { "active" };
                    let scopes = row.scopes.join(",");
                    print(&format!("{}  {state:<7}  {scopes:<24}  {}", row.key_id, row.client))?;
                }
                if rows.is_empty() {
                    say!("there are no keys; order-producer keys create --client NAME makes one");
                }
            }
        }
        Ok(Exit::Done)
    }
}

impl RevokeArgs {
    async fn run(&self) -> anyhow::Result<Exit> {
        let pool = self.database.pool().await?;
        schema::check(&pool).await?;
        let mut connection = pool.acquire().await?;
        if store::revoke_key(&mut connection, &self.key_id).await? {
            say!("revoked {}", self.key_id);
            return Ok(Exit::Done);
        }
        anyhow::bail!("there is no key {} that could be revoked", self.key_id)
    }
}
