//! `dlq`: dead letters, listed and shown.

mod advice;
mod list;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

/// What to do with dead letters.
#[derive(Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, the newest first
    List(list::ListArgs),
    /// Show everything about one dead letter
    Show(show::ShowArgs),
}

/// Does it.
pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::List(args) => list::run(args).await,
        DlqCommand::Show(args) => show::run(args).await,
    }
}
