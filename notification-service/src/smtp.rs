//! A mail to the server, step by step, so that it is known what a failure is about: the server, this
//! recipient, or nobody knows. What the answers mean is in [`meaning`].

mod meaning;
mod server;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use tokio::time::timeout;

use crate::mail::Mail;
pub(crate) use meaning::NotSent;
use meaning::{Step, not_sent, readable};
pub(crate) use server::Server;

/// Sends mails; connections are kept for the next ones.
pub(crate) struct Smtp {
    server: Server,
    /// Of all steps before the text, and of the text.
    limit: Duration,
    /// As many as there were mails at once, at most.
    idle: Mutex<Vec<AsyncSmtpConnection>>,
}

impl Smtp {
    pub(crate) fn new(server: Server, limit: Duration) -> Self {
        Self { server, limit, idle: Mutex::default() }
    }

    /// Sends a mail; returns the server's answer once it has taken it.
    pub(crate) async fn send(&self, mail: &Mail) -> Result<String, NotSent> {
        let silent = || format!("no answer within {} s", self.limit.as_secs_f64());
        let mut connection = match timeout(self.limit, self.address(mail)).await {
            Ok(addressed) => addressed?,
            Err(_) => return Err(NotSent::Away(self.of_server(&silent()))),
        };
        // From here on the server may have the mail without our hearing of it.
        match timeout(self.limit, connection.message(&mail.bytes)).await {
            Ok(Ok(response)) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(readable(&response.message().collect::<Vec<_>>().join(" ")))
            }
            Ok(Err(error)) => Err(not_sent(Step::Text, &error).map_text(|why| self.of_server(why))),
            Err(_) => Err(NotSent::PutOff(self.of_server(&format!(
                "{} to the text: it may have taken the mail, which is sent again with the same \
                 Message-ID",
                silent()
            )))),
        }
    }

    /// A connection on which the server waits for the mail's text.
    async fn address(&self, mail: &Mail) -> Result<AsyncSmtpConnection, NotSent> {
        let mut connection = self.connect().await?;
        let from = MailFrom::new(Some(mail.from.clone()), Vec::new());
        let to = Rcpt::new(mail.to.clone(), Vec::new());
        let mut answer = connection.command(from).await.map_err(|error| (Step::Sender, error));
        if answer.is_ok() {
            answer = connection.command(to).await.map_err(|error| (Step::Recipient, error));
        }
        if answer.is_ok() {
            answer = connection.command(Data).await.map_err(|error| (Step::Data, error));
        }
        match answer {
            Ok(_) => Ok(connection),
            Err((step, error)) => {
                connection.abort().await;
                Err(not_sent(step, &error).map_text(|why| self.of_server(why)))
            }
        }
    }

    /// One of the connections kept, if the server still answers on it, or a new one.
    async fn connect(&self) -> Result<AsyncSmtpConnection, NotSent> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = kept else { break };
            if connection.test_connected().await {
                return Ok(connection);
            }
        }
        self.server
            .connect()
            .await
            .map_err(|error| NotSent::Away(self.of_server(&readable(&error.to_string()))))
    }

    fn of_server(&self, what: &str) -> String {
        format!("SMTP server {}: {what}", self.server)
    }
}
