//! One notification, one mail.

use std::time::Instant;

use idempotent_consumer::failpoint::failpoint;
use idempotent_consumer::failure::FailureClass;
use idempotent_consumer::telemetry::{Span, SpanKind};
use idempotent_consumer::{Answer, Context, HandlerError, Message, MessageHandler};
use lettre::message::Mailbox;
use order_events::OrderNotification;

use crate::recipient::{self, Template};
use crate::smtp::{NotSent, Smtp};
use crate::{mail, observe};

/// Sends mails. To be given one message a transaction: whatever fails behind a mail that was sent has
/// it sent again.
pub(crate) struct Notifier {
    pub(crate) smtp: Smtp,
    pub(crate) from: Mailbox,
    pub(crate) template: Option<Template>,
    pub(crate) format: mail::Format,
}

impl MessageHandler for Notifier {
    type Body = OrderNotification;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<OrderNotification>,
    ) -> Result<Answer, HandlerError> {
        let notification = &message.body;
        let customer = &notification.customer_id;
        let found = recipient::find(context.connection(), self.template.as_ref(), customer).await?;
        let to = match found {
            Ok(to) => to,
            Err(none) => {
                let (code, text) = none.describe(customer);
                return Ok(Answer::rejected(code, text));
            }
        };
        let span = Span::child_of(message.trace(), SpanKind::Client, || "send mail".to_owned());
        let trace = span.as_ref().map(Span::context).or_else(|| message.trace());
        let (id, format) = (message.id.0, self.format);
        let mail = mail::compose(&self.from, &to, id, notification, trace, format)
            .map_err(|error| HandlerError::with_class(FailureClass::Stop, error))?;
        failpoint("notifier.before_send");
        let began = Instant::now();
        let sent = self.smtp.send(&mail).await;
        observe::attempt(sent.as_deref(), began.elapsed());
        if let Some(span) = span {
            end(span, notification, sent.as_ref().err());
        }
        let reply = match sent {
            Ok(reply) => reply,
            // Nobody's fault but the server's: wait for it.
            Err(NotSent::Away(why)) => {
                return Err(HandlerError::with_class(FailureClass::Infrastructure, why));
            }
            Err(NotSent::PutOff(why)) => return Ok(Answer::Retry(why)),
            Err(NotSent::Refused { code, why }) => return Ok(Answer::rejected(code, why)),
        };
        failpoint("notifier.after_send");
        sqlx::query(
            r"
            INSERT INTO notifications_sent
                   (message_id, order_id, customer_id, status, email, server_reply)
            VALUES ($1, $2, $3, $4, $5, $6)
            ",
        )
        .bind(message.id.0)
        .bind(notification.order_id)
        .bind(customer.as_str())
        .bind(notification.status.as_str())
        .bind(to.to_string())
        .bind(reply)
        .execute(context.connection())
        .await?;
        Ok(Answer::Applied)
    }

    fn subject(&self, notification: &OrderNotification) -> Option<String> {
        Some(notification.order_id.to_string())
    }
}

/// What the server made of a mail; of whom it is to, nothing.
fn end(mut span: Span, notification: &OrderNotification, not_sent: Option<&NotSent>) {
    span.set("cloudevents.event_subject", notification.order_id.to_string());
    match not_sent {
        None => {}
        Some(NotSent::Away(_)) => span.fail("server_away"),
        Some(NotSent::PutOff(_)) => span.fail("put_off"),
        Some(NotSent::Refused { code, .. }) => span.fail(code),
    }
    span.end();
}
