//! What a mail says. Pure but for its date.

mod html;

use idempotent_consumer::TraceContext;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use order_events::{OrderNotification, Status};
use uuid::Uuid;

/// What a mail is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text, which everybody can read.
    #[default]
    Text,
    /// The same text, and a page that says the same; the reader's program chooses.
    Html,
}

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
/// it twice can tell, and the same body. `trace`: what it is a part of, for its header.
///
/// # Errors
/// The mail cannot be built; the parts are addresses, ids and fixed words, so that this is our mistake.
pub(crate) fn compose(
    from: &Mailbox,
    to: &Address,
    id: Uuid,
    notification: &OrderNotification,
    trace: Option<TraceContext>,
    format: Format,
) -> Result<Mail, lettre::error::Error> {
    let OrderNotification { order_id, message_id, .. } = notification;
    let content = Content::of(notification);
    let mut message = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(format!("{} (order {order_id})", content.subject))
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .raw_header(header("X-Message-Id", message_id.to_string()))
        .raw_header(header("X-Order-Id", order_id.to_string()))
        // No answers of machines to a machine (RFC 3834).
        .raw_header(header("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(trace) = trace {
        message = message.raw_header(header("traceparent", trace.to_string()));
    }
    let message = match format {
        Format::Text => message.header(ContentType::TEXT_PLAIN).body(content.text())?,
        Format::Html => message.multipart(
            MultiPart::alternative()
                // Begins as no line of the parts does: no value stands at the beginning of one, and
                // where a long line is cut for the way (quoted-printable), `=` is written otherwise.
                .boundary(format!("=_{id}"))
                .singlepart(SinglePart::plain(content.text()))
                .singlepart(SinglePart::html(html::page(&content))),
        )?,
    };
    Ok(Mail { from: from.email.clone(), to: to.clone(), bytes: message.formatted() })
}

fn header(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

/// What there is to say, in whatever form.
struct Content<'a> {
    subject: &'static str,
    sentence: &'static str,
    /// Colour of a page's stripe: seen on white and on black.
    stripe: &'static str,
    notification: &'a OrderNotification,
}

impl<'a> Content<'a> {
    const fn of(notification: &'a OrderNotification) -> Self {
        const GREEN: &str = "#2e8b63";
        const RED: &str = "#c2554d";
        let (subject, sentence, stripe) = match notification.status {
            Status::Placed => ("We have your order", "thank you, we have your order.", GREEN),
            Status::Paid => {
                ("Your payment has arrived", "your payment for this order has arrived.", GREEN)
            }
            Status::Fulfilled => {
                ("Your order has been delivered", "your order has been delivered.", GREEN)
            }
            Status::Cancelled => ("Your order is cancelled", "your order is cancelled.", RED),
        };
        Self { subject, sentence, stripe, notification }
    }

    /// Names and values.
    fn rows(&self) -> [(&'static str, String); 3] {
        let OrderNotification { order_id, customer_id, total, currency, .. } = self.notification;
        [
            ("Order", order_id.to_string()),
            ("Customer", customer_id.to_string()),
            ("Total", amount(total.get(), currency)),
        ]
    }

    /// The text, with CRLF at the ends of its lines.
    fn text(&self) -> String {
        let rows =
            self.rows().map(|(name, value)| format!("{:<10}{value}\r\n", format!("{name}:")));
        format!("Hello,\r\n\r\n{}\r\n\r\n{}", self.sentence, rows.concat())
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

    fn notification(status: Status, customer: &str) -> OrderNotification {
        OrderNotification {
            order_id: Uuid::from_u128(1),
            status,
            customer_id: CustomerId::new(customer).unwrap(),
            total: Cents::new(1905),
            currency: "EUR".to_owned(),
            message_id: Uuid::from_u128(2),
        }
    }

    fn composed(notification: &OrderNotification, format: Format) -> String {
        let from = "Tea shop <shop@tea.example>".parse().unwrap();
        let to = "c-17@example.com".parse().unwrap();
        let mail = compose(&from, &to, Uuid::from_u128(3), notification, None, format).unwrap();
        String::from_utf8(mail.bytes).unwrap()
    }

    fn text_of(status: Status, customer: &str) -> String {
        composed(&notification(status, customer), Format::Text)
    }

    fn page_of(notification: &OrderNotification) -> String {
        html::page(&Content::of(notification))
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
            assert!(headers.contains("Content-Type: text/plain; charset=utf-8"), "{headers}");
            let notification = notification(status, "c-17");
            let Content { subject, sentence, .. } = Content::of(&notification);
            assert!(headers.contains(&format!("Subject: {subject} ")), "{headers}");
            assert_eq!(
                body,
                format!(
                    "Hello,\r\n\r\n{sentence}\r\n\r\n\
                     Order:    00000000-0000-0000-0000-000000000001\r\n\
                     Customer: c-17\r\nTotal:    19.05 EUR\r\n"
                )
            );
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
    fn a_page_says_what_the_text_says_and_fetches_nothing() {
        for status in Status::ALL {
            let notification = notification(status, "c-17");
            let content = Content::of(&notification);
            let page = page_of(&notification);
            for part in [content.subject, content.sentence, "<html lang=\"en\""] {
                assert!(page.contains(part), "{part}\n{page}");
            }
            for (name, value) in content.rows() {
                assert!(page.contains(&format!(">{name}</th>")), "{name}\n{page}");
                assert!(page.contains(&format!(">{value}</td>")), "{value}\n{page}");
            }
            for outside in ["http", "//", "src", "href", "url(", "<img", "<link", "<script", "@"] {
                assert!(!page.contains(outside), "{outside}\n{page}");
            }
        }
    }

    #[test]
    fn no_value_is_markup_of_a_page() {
        let plain = page_of(&notification(Status::Placed, "c-17"));
        let elements = |page: &str| (page.matches('<').count(), page.matches('>').count());
        for evil in [
            "<script>alert(1)</script>",
            "\"><img/src='x'onerror='y'>",
            "</td></table>",
            "<!--",
            "&lt;b&gt;",
            "&#60;b&#62;",
        ] {
            // Ids are checked where they are read; the currency is any text, should one slip through.
            let customer = notification(Status::Placed, evil);
            let currency = OrderNotification {
                currency: evil.to_owned(),
                ..notification(Status::Paid, "c-17")
            };
            for page in [page_of(&customer), page_of(&currency)] {
                assert_eq!(elements(&page), elements(&plain), "{evil}\n{page}");
                assert!(!page.contains(evil), "{evil}\n{page}");
            }
        }
        let page = page_of(&notification(Status::Placed, "<a>&\"'"));
        assert!(page.contains(">&lt;a&gt;&amp;&quot;&#39;</td>"), "{page}");
    }

    #[test]
    fn a_mail_with_a_page_has_the_text_first_and_is_the_same_when_it_is_composed_again() {
        let undated = |mail: &str| {
            let lines = mail.split("\r\n").filter(|line| !line.starts_with("Date: "));
            lines.collect::<Vec<_>>().join("\r\n")
        };
        // As near to a boundary as a customer can come.
        let customer = "--=_00000000-0000-0000-0000-000000000003--";
        let notification = notification(Status::Paid, customer);
        let mail = composed(&notification, Format::Html);
        assert_eq!(undated(&mail), undated(&composed(&notification, Format::Html)));
        let (headers, body) = mail.split_once("\r\n\r\n").unwrap();
        assert!(headers.contains("Content-Type: multipart/alternative;"), "{headers}");
        assert!(headers.contains(&format!("boundary=\"{}\"", &customer[2..40])), "{headers}");
        let parts: Vec<&str> = body.split(&format!("--{}\r\n", &customer[2..40])).collect();
        assert_eq!(parts.len(), 3, "{body}");
        assert!(parts[1].starts_with("Content-Type: text/plain; charset=utf-8\r\n"), "{body}");
        assert!(parts[1].ends_with(&format!("\r\n\r\n{}\r\n", Content::of(&notification).text())));
        assert!(parts[2].starts_with("Content-Type: text/html; charset=utf-8\r\n"), "{body}");
        let boundaries = body.lines().filter(|line| line.starts_with("--=_")).count();
        assert_eq!(boundaries, 3, "{body}");
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
