//! Where the messages of PostgreSQL's and Kafka's protocols begin and end. Pure.

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Frontend and backend messages, version 3.
    Postgres,
    /// Requests and responses behind their length.
    Kafka,
}

/// Splits one direction of a connection into messages.
pub(crate) struct Frames {
    protocol: Protocol,
    from_client: bool,
    bytes: Vec<u8>,
    started: bool,
}

const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
const KAFKA_PRODUCE: [u8; 2] = [0, 0];
const KAFKA_METADATA: [u8; 2] = [0, 3];

impl Frames {
    pub(crate) fn new(protocol: Protocol, from_client: bool) -> Self {
        Self { protocol, from_client, bytes: Vec::new(), started: false }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message if it is complete.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        if self.protocol == Protocol::Postgres && !self.from_client {
            // An answer is told by its time, so there is no need to take it apart.
            return (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes));
        }
        // A client's first messages to PostgreSQL have no type before their length.
        let is_typed = self.protocol == Protocol::Postgres && self.started;
        let length_at = usize::from(is_typed);
        let length = self.bytes.get(length_at..length_at + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let length = length_at + length + if self.protocol == Protocol::Kafka { 4 } else { 0 };
        if self.bytes.len() < length {
            return None;
        }
        let rest = self.bytes.split_off(length);
        let message = std::mem::replace(&mut self.bytes, rest);
        self.started |= message.get(4..8) != Some(&SSL_REQUEST);
        Some(message)
    }

    /// Whether a client's message asks for what may not be done twice, and what the answer to it
    /// is known by.
    pub(crate) fn decisive_request(&self, message: &[u8]) -> Option<u32> {
        match self.protocol {
            Protocol::Postgres => (message.first() == Some(&b'Q')
                && message.get(5..) == Some(b"COMMIT\0"))
            .then_some(0),
            Protocol::Kafka => {
                let is_produce = message.get(4..6) == Some(&KAFKA_PRODUCE);
                is_produce.then(|| number(message, 8)).flatten()
            }
        }
    }

    /// What the answer is known by, if a client's message asks who the brokers are.
    pub(crate) fn question_for_brokers(&self, message: &[u8]) -> Option<u32> {
        let is_metadata =
            self.protocol == Protocol::Kafka && message.get(4..6) == Some(&KAFKA_METADATA);
        is_metadata.then(|| number(message, 8)).flatten()
    }

    /// Whether a server's message is the answer to that request.
    pub(crate) fn answers(&self, message: &[u8], request: u32) -> bool {
        match self.protocol {
            // Whatever comes after a COMMIT was sent: the client had waited for all before it.
            Protocol::Postgres => true,
            Protocol::Kafka => number(message, 4) == Some(request),
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

/// Kafka's answer to who the brokers are, with the topics only: as a broker gives it that has just
/// started and has not heard of itself yet. `None` if it is older than version 9 of that answer.
pub(crate) fn without_brokers(answer: &[u8]) -> Option<Vec<u8>> {
    // Length, number, no tags, how long it was throttled.
    let brokers_at = 4 + 4 + 1 + 4;
    let mut at = brokers_at;
    for _ in 1..varint(answer, &mut at)? {
        at += 4;
        skip_text(answer, &mut at)?;
        at += 4;
        skip_text(answer, &mut at)?;
        (varint(answer, &mut at)? == 0).then_some(())?;
    }
    let body = [answer.get(4..brokers_at)?, &[1], answer.get(at..)?].concat();
    Some([&u32::try_from(body.len()).ok()?.to_be_bytes()[..], &body].concat())
}

fn skip_text(message: &[u8], at: &mut usize) -> Option<()> {
    *at += varint(message, at)?.saturating_sub(1);
    Some(())
}

fn varint(message: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0;
    for shift in (0..28).step_by(7) {
        let byte = *message.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(protocol: Protocol, from_client: bool, bytes: &[u8], chunk: usize) -> Vec<Vec<u8>> {
        let mut frames = Frames::new(protocol, from_client);
        let mut whole = Vec::new();
        for chunk in bytes.chunks(chunk) {
            frames.push(chunk);
            whole.extend(std::iter::from_fn(|| frames.next()));
        }
        whole
    }

    #[test]
    fn messages_are_whole_however_the_bytes_arrive_and_a_commit_is_seen() {
        let ssl = [&8_u32.to_be_bytes()[..], &SSL_REQUEST].concat();
        let startup = [&8_u32.to_be_bytes()[..], &[0, 3, 0, 0]].concat();
        let commit = [b"Q", &11_u32.to_be_bytes()[..], b"COMMIT\0"].concat();
        let bytes = [ssl, startup, commit.clone()].concat();
        for chunk in 1..bytes.len() {
            let messages = all(Protocol::Postgres, true, &bytes, chunk);
            assert_eq!(messages.len(), 3);
            let frames = Frames::new(Protocol::Postgres, true);
            assert_eq!(frames.decisive_request(&messages[2]), Some(0));
            assert_eq!(frames.decisive_request(&messages[1]), None);
        }
    }

    #[test]
    fn a_produce_and_its_answer_are_told_by_their_number() {
        let request =
            [&10_u32.to_be_bytes()[..], &[0, 0, 0, 9], &7_u32.to_be_bytes(), &[1, 2]].concat();
        let fetch = [&8_u32.to_be_bytes()[..], &[0, 1, 0, 9], &8_u32.to_be_bytes()].concat();
        let messages = all(Protocol::Kafka, true, &[request, fetch].concat(), 3);
        let frames = Frames::new(Protocol::Kafka, true);
        assert_eq!(frames.decisive_request(&messages[0]), Some(7));
        assert_eq!(frames.decisive_request(&messages[1]), None);
        let answer = [&4_u32.to_be_bytes()[..], &7_u32.to_be_bytes()].concat();
        assert!(frames.answers(&answer, 7));
        assert!(!frames.answers(&answer, 8));
    }

    #[test]
    fn an_answer_loses_its_brokers_and_nothing_else() {
        let head = [&7_u32.to_be_bytes()[..], &[0], &0_u32.to_be_bytes()].concat();
        let host = [b'h'; 200];
        // The length behind 128 takes two bytes; a rack that is null, and one that is not.
        let one = [&1_u32.to_be_bytes()[..], &[0xc9, 1], &host, &[0, 0, 35, 132], &[0, 0]].concat();
        let two = [&2_u32.to_be_bytes()[..], &[2, b'h'], &[0, 0, 35, 133], &[2, b'r', 0]].concat();
        let framed = |brokers: &[u8]| {
            let body = [&head, brokers, b"topics"].concat();
            [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
        };
        let answer = framed(&[&[3][..], &one, &two].concat());
        assert_eq!(without_brokers(&answer), Some(framed(&[1])));
        assert_eq!(without_brokers(&answer[..60]), None);

        let question = [&6_u32.to_be_bytes()[..], &[0, 3, 0, 13], &7_u32.to_be_bytes()].concat();
        let frames = Frames::new(Protocol::Kafka, true);
        assert_eq!(frames.question_for_brokers(&question), Some(7));
        assert_eq!(frames.decisive_request(&question), None);
    }
}
