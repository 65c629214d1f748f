//! What an SMTP server's answer means for a mail. Pure.

use lettre::transport::smtp::Error;

/// Why a mail was not sent, as far as one knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The server is away, or takes no mail from us at all.
    Away(String),
    /// This mail, for now; or the server took it, and its answer was lost.
    PutOff(String),
    /// This mail, for good.
    Refused {
        /// Of the dead letter.
        code: &'static str,
        /// What the server said.
        why: String,
    },
}

impl NotSent {
    pub(super) fn map_text(self, text: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Away(why) => Self::Away(text(&why)),
            Self::PutOff(why) => Self::PutOff(text(&why)),
            Self::Refused { code, why } => Self::Refused { code, why: text(&why) },
        }
    }
}

/// What the server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `MAIL FROM`, which is the same for all mails.
    Sender,
    /// `RCPT TO`
    Recipient,
    /// `DATA`
    Data,
    /// The text and the dot behind it.
    Text,
}

/// The meaning of a failure at a step.
pub(super) fn not_sent(step: Step, error: &Error) -> NotSent {
    let code = error.status().map(u16::from);
    by_code(step, code, readable(&error.to_string()))
}

fn by_code(step: Step, code: Option<u16>, why: String) -> NotSent {
    match (step, code) {
        // The server closes, wants another login, or does not know what we speak.
        (_, Some(421 | 454 | 500..=504 | 530 | 534 | 535 | 538)) | (Step::Sender, _) => {
            NotSent::Away(why)
        }
        (Step::Recipient, Some(500..)) => NotSent::Refused { code: "recipient_refused", why },
        (Step::Data | Step::Text, Some(500..)) => NotSent::Refused { code: "mail_refused", why },
        (_, Some(_)) => NotSent::PutOff(why),
        // Without an answer: before the text nothing can have been sent, behind it one cannot know.
        (Step::Recipient | Step::Data, None) => NotSent::Away(why),
        (Step::Text, None) => NotSent::PutOff(format!(
            "{why}; it may have taken the mail, which is sent again with the same Message-ID"
        )),
    }
}

/// A server's words as one line that a row can hold.
pub(super) fn readable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(step: Step, code: Option<u16>) -> &'static str {
        match by_code(step, code, String::new()) {
            NotSent::Away(_) => "away",
            NotSent::PutOff(_) => "put off",
            NotSent::Refused { code, .. } => code,
        }
    }

    #[test]
    fn only_what_a_server_says_of_a_recipient_or_a_mail_is_held_against_the_message() {
        for (step, code, meaning) in [
            (Step::Sender, Some(450), "away"),
            (Step::Sender, Some(550), "away"),
            (Step::Sender, None, "away"),
            (Step::Recipient, Some(421), "away"),
            (Step::Recipient, Some(450), "put off"),
            (Step::Recipient, Some(530), "away"),
            (Step::Recipient, Some(550), "recipient_refused"),
            (Step::Recipient, None, "away"),
            (Step::Data, Some(451), "put off"),
            (Step::Data, Some(554), "mail_refused"),
            (Step::Data, None, "away"),
            (Step::Text, Some(421), "away"),
            (Step::Text, Some(452), "put off"),
            (Step::Text, Some(554), "mail_refused"),
        ] {
            assert_eq!(name(step, code), meaning, "{step:?} {code:?}");
        }
    }

    #[test]
    fn a_text_without_an_answer_is_sent_again_as_often_as_a_message_is_tried_and_no_more() {
        assert_eq!(name(Step::Text, None), "put off");
    }

    #[test]
    fn what_a_server_says_fits_a_row_and_a_line() {
        assert_eq!(readable("no\r\nX: y\0"), "no  X: y ");
        assert_eq!(readable(&"é".repeat(600)).chars().count(), 500);
    }
}
