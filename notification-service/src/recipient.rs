//! Which address a customer has.

use std::str::FromStr;

use lettre::Address;
use order_events::CustomerId;
use sqlx::PgConnection;

/// What stands in a template for the customer's id.
const PLACE: &str = "{customer_id}";

/// The address of customers who have none in `notification_contacts`, such as
/// `{customer_id}@example.com`.
#[derive(Clone, Debug)]
pub(crate) struct Template(String);

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let template = Self(text.to_owned());
        match CustomerId::new("c-17").map(|customer| template.address(&customer)) {
            Ok(Ok(_)) => Ok(template),
            _ => Err(format!("{text:?} makes no mail address; write {PLACE}@example.com")),
        }
    }
}

impl Template {
    /// The address of this customer. An id is any visible ASCII: one that would be more than a plain
    /// name in an address is refused, or it could name another mailbox than its own.
    fn address(&self, customer: &CustomerId) -> Result<Address, NoAddress> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        let id = customer.as_str();
        if self.0.contains(PLACE) && !id.bytes().all(is_plain) {
            return Err(NoAddress::Invalid(format!(
                "the id {id} does not go into an address; give the customer a row in \
                 notification_contacts"
            )));
        }
        parse(&self.0.replace(PLACE, id))
    }
}

/// Why a customer cannot be written to. Final: a dead letter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAddress {
    /// Nobody knows one.
    Unknown,
    /// There is a text, and it is no address.
    Invalid(String),
}

impl NoAddress {
    /// Code and text of the dead letter.
    pub(crate) fn describe(self, customer: &CustomerId) -> (&'static str, String) {
        match self {
            Self::Unknown => (
                "no_recipient",
                format!(
                    "no row of notification_contacts has customer {customer}, and there is no \
                     --recipient-template; add the row, then redrive"
                ),
            ),
            Self::Invalid(problem) => ("invalid_recipient", problem),
        }
    }
}

/// Finds the customer's address.
///
/// # Errors
/// The database fails; or, inside, the customer has no address.
pub(crate) async fn find(
    connection: &mut PgConnection,
    template: Option<&Template>,
    customer: &CustomerId,
) -> Result<Result<Address, NoAddress>, sqlx::Error> {
    let known: Option<String> =
        sqlx::query_scalar("SELECT email FROM notification_contacts WHERE customer_id = $1")
            .bind(customer.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(match (known, template) {
        (Some(email), _) => parse(&email),
        (None, Some(template)) => template.address(customer),
        (None, None) => Err(NoAddress::Unknown),
    })
}

fn parse(text: &str) -> Result<Address, NoAddress> {
    // Beyond ASCII an address needs a server that knows SMTPUTF8.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("{text:?} is no address: blanks or letters beyond ASCII");
        return Err(NoAddress::Invalid(problem));
    }
    text.parse().map_err(|error| NoAddress::Invalid(format!("{text:?} is no address: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(template: &str, customer: &str) -> Result<String, NoAddress> {
        let template = Template::from_str(template).unwrap();
        template.address(&CustomerId::new(customer).unwrap()).map(|address| address.to_string())
    }

    #[test]
    fn a_customers_id_names_its_own_mailbox_or_none() {
        let template = "{customer_id}@example.com";
        assert_eq!(address(template, "c-17"), Ok("c-17@example.com".to_owned()));
        for id in ["a@evil.example", "a,b", "<a>", "\"a\"", "a%evil.example", "a;b", "a..b", ".a"] {
            assert!(matches!(address(template, id), Err(NoAddress::Invalid(_))), "{id}");
        }
        assert_eq!(address("shop@example.com", "a@b"), Ok("shop@example.com".to_owned()));
    }

    #[test]
    fn a_template_that_makes_no_address_is_refused_at_the_start() {
        for template in ["", "{customer_id}", "{customer_id}@", "{customer}@example.com, b@c.d"] {
            assert!(Template::from_str(template).is_err(), "{template}");
        }
    }

    #[test]
    fn a_contact_with_a_line_break_or_a_name_is_no_address() {
        for text in ["a@b.example\r\nBcc: c@d.example", "A <a@b.example>", "a b@c.example", "é@b.c"]
        {
            assert!(matches!(parse(text), Err(NoAddress::Invalid(_))), "{text}");
        }
    }
}
