//! What a mail says. Pure but for its date.

use idempotent_consumer::TraceContext;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use order_events::{OrderNotification, Status};
use uuid::Uuid;

/// A mail ready to send.
pub(crate) struct Mail {
    /// Whom the server is to send what cannot be delivered.
    pub(crate) from: Address,
    /// Whom it goes to.
    pub(crate) to: Address,
    /// Headers and text.
    pub(crate) bytes: Vec<u8>,
}

/// The mail of a notification. The same notification gives the same `Message-ID`, so that whoever gets
/// it twice can tell. `trace`: what it is a part of, for its header.
///
/// # Errors
/// The mail cannot be built; the parts are addresses, ids and fixed words, so that this is our mistake.
pub(crate) fn compose(
    from: &Mailbox,
    to: &Address,
    id: Uuid,
    notification: &OrderNotification,
    trace: Option<TraceContext>,
) -> Result<Mail, lettre::error::Error> {
    let OrderNotification { order_id, message_id, .. } = notification;
    let (subject, sentence) = words(notification.status);
    let mut message = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(format!("{subject} (order {order_id})"))
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .header(ContentType::TEXT_PLAIN)
        .raw_header(header("X-Message-Id", message_id.to_string()))
        .raw_header(header("X-Order-Id", order_id.to_string()))
        // No answers of machines to a machine (RFC 3834).
        .raw_header(header("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(trace) = trace {
        message = message.raw_header(header("traceparent", trace.to_string()));
    }
    let message = message.body(format!(
        "Hello,\r\n\r\n{sentence}\r\n\r\nOrder:    {order_id}\r\nCustomer: {}\r\nTotal:    {}\r\n",
        notification.customer_id,
        amount(notification.total.get(), &notification.currency),
    ))?;
    Ok(Mail { from: from.email.clone(), to: to.clone(), bytes: message.formatted() })
}

fn header(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

/// Subject and sentence.
const fn words(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Placed => ("We have your order", "thank you, we have your order."),
        Status::Paid => ("Your payment has arrived", "your payment for this order has arrived."),
        Status::Fulfilled => ("Your order has been delivered", "your order has been delivered."),
        Status::Cancelled => ("Your order is cancelled", "your order is cancelled."),
    }
}

/// An amount in units of its currency, such as `9.00 EUR`.
fn amount(smallest_units: i64, currency: &str) -> String {
    let decimals = decimals_of(currency);
    let unit = 10_i64.pow(decimals);
    let (whole, rest) = (smallest_units / unit, smallest_units % unit);
    match decimals {
        0 => format!("{whole} {currency}"),
        _ => format!("{whole}.{rest:0width$} {currency}", width = decimals as usize),
    }
}

/// How many decimals ISO 4217 gives a currency.
fn decimals_of(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX"
        | "UYI" | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{Cents, CustomerId};

    fn text_of(status: Status, customer: &str) -> String {
        let notification = OrderNotification {
            order_id: Uuid::from_u128(1),
            status,
            customer_id: CustomerId::new(customer).unwrap(),
            total: Cents::new(1905),
            currency: "EUR".to_owned(),
            message_id: Uuid::from_u128(2),
        };
        let from = "Tea shop <shop@tea.example>".parse().unwrap();
        let to = "c-17@example.com".parse().unwrap();
        let mail = compose(&from, &to, Uuid::from_u128(3), &notification, None).unwrap();
        String::from_utf8(mail.bytes).unwrap()
    }

    #[test]
    fn each_status_has_its_text_and_the_ids_are_in_the_headers() {
        for status in Status::ALL {
            let text = text_of(status, "c-17");
            let (headers, body) = text.split_once("\r\n\r\n").unwrap();
            for header in [
                "Message-ID: <00000000-0000-0000-0000-000000000003@tea.example>",
                "X-Message-Id: 00000000-0000-0000-0000-000000000002",
                "X-Order-Id: 00000000-0000-0000-0000-000000000001",
                "To: c-17@example.com",
                "Auto-Submitted: auto-generated",
            ] {
                assert!(headers.lines().any(|line| line == header), "{header}\n{headers}");
            }
            assert!(headers.contains("From: \"Tea shop\" <shop@tea.example>"), "{headers}");
            let (subject, sentence) = words(status);
            assert!(headers.contains(&format!("Subject: {subject} ")), "{headers}");
            assert!(body.contains(sentence) && body.contains("19.05 EUR"), "{body}");
        }
    }

    #[test]
    fn a_customers_id_stays_within_the_text() {
        let text = text_of(Status::Placed, "x:Bcc:a@b.example,%0d%0aBcc:c@d.example");
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!headers.contains("Bcc"), "{headers}");
        assert!(body.contains("Customer: x:Bcc:a@b.example,%0d%0aBcc:c@d.example\r\n"));
    }

    #[test]
    fn amounts_have_the_decimals_of_their_currency() {
        for (cents, currency, text) in [
            (5, "EUR", "0.05 EUR"),
            (1905, "JPY", "1905 JPY"),
            (1905, "KWD", "1.905 KWD"),
            (100_000_000_000_000, "USD", "1000000000000.00 USD"),
        ] {
            assert_eq!(amount(cents, currency), text);
        }
    }
}
