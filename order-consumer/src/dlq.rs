//! `dlq`: dead letters, listed, shown, redriven and discarded.

mod advice;
mod list;
mod redrive;
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
    /// Publish dead letters again, so that they take effect if they now can
    Redrive(redrive::RedriveArgs),
    /// Put dead letters aside for good
    Discard(redrive::DiscardArgs),
}

/// Does it.
pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::List(args) => list::run(args).await,
        DlqCommand::Show(args) => show::run(args).await,
        DlqCommand::Redrive(args) => redrive::redrive(args).await,
        DlqCommand::Discard(args) => redrive::discard(args).await,
    }
}
