//! Where the mails go: an SMTP server that keeps those whose text it has answered with 250.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use order_events::Status;
use tokio::io::BufReader;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::TcpListener;

/// Longest line and longest text, in bytes.
const LINE_MAX: u64 = 4 * 1024;
const TEXT_MAX: usize = 256 * 1024;

/// Listens as long as it lives.
pub(super) struct Post {
    port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
    task: tokio::task::JoinHandle<()>,
}

/// What one can tell of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) message_id: String,
    /// `X-Message-Id`, of the event.
    pub(super) event_id: String,
    pub(super) order_id: String,
    pub(super) status: Status,
    pub(super) total_cents: i64,
    pub(super) to: String,
}

impl Post {
    /// On a free port.
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mails = Arc::<Mutex<Vec<Mail>>>::default();
        let kept = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                // A client that dies ends its connection, and nothing else.
                tokio::spawn(async move { serve(BufReader::new(stream), &kept).await });
            }
        });
        Ok(Self { port, mails, task })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// All that were taken, in their order.
    pub(super) fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection to its end.
async fn serve<S>(mut stream: BufReader<S>, kept: &Mutex<Vec<Mail>>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(b"220 faults ready\r\n").await?;
    let (mut has_sender, mut recipient) = (false, None);
    loop {
        let line = read_line(&mut stream).await?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "EHLO" | "HELO" => b"250 faults\r\n",
            "MAIL" => {
                (has_sender, recipient) = (true, None);
                b"250 ok\r\n"
            }
            "RCPT" if has_sender => {
                recipient = line.split(['<', '>']).nth(1).map(str::to_owned);
                b"250 ok\r\n"
            }
            "DATA" if recipient.is_some() => {
                stream.write_all(b"354 go on\r\n").await?;
                let text = read_text(&mut stream).await?;
                let to = recipient.take().unwrap_or_default();
                has_sender = false;
                match read_mail(&text, to) {
                    Some(mail) => {
                        stream.write_all(b"250 taken\r\n").await?;
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
                        continue;
                    }
                    None => b"554 not a mail of the shop\r\n",
                }
            }
            "RSET" => {
                (has_sender, recipient) = (false, None);
                b"250 ok\r\n"
            }
            "NOOP" => b"250 ok\r\n",
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            "RCPT" | "DATA" => b"503 out of order\r\n",
            _ => b"502 unknown\r\n",
        };
        stream.write_all(answer).await?;
    }
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.take(LINE_MAX).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Up to the line with nothing but a dot; one dot more is taken from lines that begin with one.
async fn read_text<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<String> {
    let mut text = String::new();
    while text.len() < TEXT_MAX {
        let line = read_line(stream).await?;
        match line.strip_prefix('.') {
            Some("") => return Ok(text),
            Some(rest) => text.push_str(rest),
            None => text.push_str(&line),
        }
        text.push('\n');
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// What a mail of the notification service says. `None`: it is no such mail.
fn read_mail(text: &str, to: String) -> Option<Mail> {
    let (head, body) = text.split_once("\n\n")?;
    // A long header goes on in lines that begin with a blank.
    let head = head.replace("\n ", " ");
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let subject = header("Subject")?;
    let status = [
        ("We have your order", Status::Placed),
        ("Your payment has arrived", Status::Paid),
        ("Your order has been delivered", Status::Fulfilled),
        ("Your order is cancelled", Status::Cancelled),
    ];
    let status = status.into_iter().find(|(words, _)| subject.starts_with(words))?.1;
    // Without the point it is in the smallest unit of any currency.
    let total = body.lines().find_map(|line| line.strip_prefix("Total:"))?;
    let total = total.split_whitespace().next()?.replace('.', "").parse().ok()?;
    Some(Mail {
        message_id: header("Message-ID")?.to_owned(),
        event_id: header("X-Message-Id")?.to_owned(),
        order_id: header("X-Order-Id")?.to_owned(),
        status,
        total_cents: total,
        to,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Message-ID: <m@tea.example>\r\nSubject: Your payment has arrived\r\n (order o)\r\n\
        X-Message-Id: e\r\nX-Order-Id: o\r\n\r\nHello,\r\n\r\n..dot\r\nTotal:    19.05 EUR\r\n";

    async fn conversation(said: &str) -> (String, Vec<Mail>) {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let kept = Mutex::default();
        let (mut from_server, mut to_server) = tokio::io::split(client);
        to_server.write_all(said.as_bytes()).await.unwrap();
        to_server.shutdown().await.unwrap();
        let _ = serve(BufReader::new(server), &kept).await;
        let mut heard = String::new();
        from_server.read_to_string(&mut heard).await.unwrap();
        (heard, kept.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_mail_is_kept_with_what_it_says_once_its_text_was_answered() {
        let said = format!(
            "EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c-1@example.com>\r\nDATA\r\n{TEXT}.\r\nQUIT\r\n"
        );
        let (heard, mails) = conversation(&said).await;
        assert!(heard.ends_with("354 go on\r\n250 taken\r\n221 bye\r\n"), "{heard}");
        let mail = Mail {
            message_id: "<m@tea.example>".to_owned(),
            event_id: "e".to_owned(),
            order_id: "o".to_owned(),
            status: Status::Paid,
            total_cents: 1905,
            to: "c-1@example.com".to_owned(),
        };
        assert_eq!(mails, [mail]);
    }

    #[tokio::test]
    async fn what_was_cut_off_or_came_out_of_order_is_not_kept() {
        let begun = "MAIL FROM:<a@b>\r\nRCPT TO:<c-1@example.com>\r\nDATA\r\n";
        for said in [
            format!("{begun}{TEXT}"),
            format!("{begun}no mail\r\n.\r\n"),
            format!("DATA\r\n{TEXT}.\r\n"),
        ] {
            let (heard, mails) = conversation(&said).await;
            assert!(mails.is_empty() && !heard.contains("250 taken"), "{heard}");
        }
    }
}
