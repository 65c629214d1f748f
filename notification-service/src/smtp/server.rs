//! Which server, how to encrypt, and who we are, out of one URL.

use std::fmt;
use std::str::FromStr;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// `smtp://[user:password@]host[:port][/name-to-greet-with][?tls=required]`, or `smtps://…`.
#[derive(Clone)]
pub(crate) struct Server {
    host: String,
    port: u16,
    tls: Tls,
    hello: ClientId,
    credentials: Option<Credentials>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    None,
    /// STARTTLS if the server offers it.
    Opportunistic,
    /// STARTTLS or nothing.
    Required,
    /// From the first byte.
    Wrapped,
}

impl FromStr for Server {
    type Err = String;

    /// The text is never in the error: it may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write smtp://host:port, smtp://user:password@host?tls=required or smtps://…";
        let wrong = |what: &str| format!("{what}; {form}");
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let host = match url.host() {
            // Without the brackets of an IPv6 address.
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) if !host.to_string().is_empty() => host.to_string(),
            _ => return Err(wrong("there is no host")),
        };
        let asked = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value);
        let (tls, port) = match (url.scheme(), asked.as_deref()) {
            ("smtp", None) => (Tls::None, 25),
            ("smtp", Some("opportunistic")) => (Tls::Opportunistic, 587),
            ("smtp", Some("required")) => (Tls::Required, 587),
            ("smtps", None) => (Tls::Wrapped, 465),
            ("smtp" | "smtps", _) => return Err(wrong("tls is required or opportunistic")),
            _ => return Err(wrong("the scheme is smtp or smtps")),
        };
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(String::from).map_err(|_| wrong("user or password is not UTF-8"))
        };
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(decode(url.username())?, decode(password)?)),
            None if url.username().is_empty() => None,
            None => return Err(wrong("there is a user and no password")),
        };
        let is_here = ["localhost", "127.0.0.1", "::1"].contains(&host.as_str());
        if credentials.is_some() && matches!(tls, Tls::None | Tls::Opportunistic) && !is_here {
            return Err(wrong("the password would cross the network in the clear"));
        }
        let name = url.path().trim_matches('/');
        let hello =
            if name.is_empty() { ClientId::default() } else { ClientId::Domain(name.to_owned()) };
        Ok(Self { host, port: url.port().unwrap_or(port), tls, hello, credentials })
    }
}

impl Server {
    /// A new connection, encrypted and logged in as far as the URL asks for it.
    pub(super) async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let tls = || TlsParameters::new(self.host.clone());
        let wrapped = (self.tls == Tls::Wrapped).then(tls).transpose()?;
        let address = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, None, &self.hello, wrapped, None).await?;
        let starts_tls = match self.tls {
            Tls::None | Tls::Wrapped => false,
            Tls::Opportunistic => connection.can_starttls(),
            Tls::Required => true,
        };
        if starts_tls {
            connection.starttls(tls()?, &self.hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await?;
        }
        Ok(connection)
    }
}

/// Host and port, and nothing secret.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> (String, Tls, bool) {
        let server = Server::from_str(url).unwrap();
        (server.to_string(), server.tls, server.credentials.is_some())
    }

    #[test]
    fn a_url_says_where_how_and_who() {
        for (url, place, tls, has_login) in [
            ("smtp://localhost:1025", "localhost:1025", Tls::None, false),
            ("smtp://mail.example", "mail.example:25", Tls::None, false),
            (
                "smtp://mail.example?tls=opportunistic",
                "mail.example:587",
                Tls::Opportunistic,
                false,
            ),
            ("smtp://u:p%40@mail.example?tls=required", "mail.example:587", Tls::Required, true),
            ("smtps://u:p@mail.example/me.example", "mail.example:465", Tls::Wrapped, true),
            ("smtp://u:p@127.0.0.1:1025", "127.0.0.1:1025", Tls::None, true),
        ] {
            assert_eq!(server(url), (place.to_owned(), tls, has_login), "{url}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_repeating_a_secret() {
        for url in [
            "mail.example:25",
            "http://mail.example",
            "smtp://",
            "smtp://mail.example?tls=perhaps",
            "smtps://mail.example?tls=required",
            "smtp://u:secret@mail.example",
            "smtp://u:secret@mail.example?tls=opportunistic",
            "smtp://secret@mail.example",
        ] {
            let Err(error) = Server::from_str(url) else { panic!("{url}") };
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
