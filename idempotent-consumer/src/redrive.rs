//! Redrive: a dead letter's message is published again, and takes effect if it now can. The
//! decisions are pure; what an operator does with them is below, one transaction each.
//!
//! ```text
//!            redrive                      copy n comes, and is
//!   open ──────────────► redriven, n ──┬─ applied or skipped ──────► resolved
//!    ▲ │                    │          └─ dead again ──► open, n
//!    │ └─ discard ─► discarded         └─ to be tried again: redriven, in the retry queue
//!    └──── Kafka refuses the copy: open, n - 1
//!    (its copy is lost: redriven, n + 1)
//! ```
//!
//! The claim stays where it is from the first dead-lettering until a copy is applied, so every other
//! record of the message is a duplicate at any time. A copy is known by two headers, its [`Ticket`].

use uuid::Uuid;

use crate::inspect::DeadLetterState;
use crate::message::{MessageId, Record};

pub use crate::store::redrive::{Chosen, Selection, Standing, discard, find, redrive, standings};

/// The header with the id of the message that a copy is of.
pub const ID_HEADER: &str = "dlq-message-id";
/// The header with the number of the redrive, from 1.
pub const COUNT_HEADER: &str = "dlq-redrive-count";
/// The header with the group that redrives: others that read the topic have claims of their own.
pub const GROUP_HEADER: &str = "dlq-consumer-group";

/// What the headers of a redriven copy say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The message.
    pub id: MessageId,
    /// Which redrive of it, from 1.
    pub number: i32,
    /// Whose dead letter it was; any group's if it does not say.
    pub group: Option<String>,
}

impl Ticket {
    /// That of a record, if it has one. A UUID that is not hyphenated, or a number that is none, is
    /// no ticket, and the record is an ordinary one.
    pub fn of(record: &Record) -> Option<Self> {
        const HYPHENATED: usize = 36;
        let id = record.headers.get_str(ID_HEADER).filter(|id| id.len() == HYPHENATED)?;
        let id = MessageId(Uuid::try_parse(id).ok()?);
        let number = record.headers.get_str(COUNT_HEADER)?.parse().ok().filter(|n| *n > 0)?;
        let group = record.headers.get_str(GROUP_HEADER).map(str::to_owned);
        Some(Self { id, number, group })
    }

    /// Whether it is of this group's redrive.
    pub fn is_of(&self, group: &str) -> bool {
        self.group.as_deref().is_none_or(|whose| whose == group)
    }
}

/// Whether copy `number` takes the place of the dead-lettered message: once for each number.
///
/// A number above the count is one that the database has forgotten, since it was set back: the
/// redrive happened, and counts.
pub fn takes(state: DeadLetterState, redrive_count: i32, number: i32) -> bool {
    match state {
        DeadLetterState::Redriven => number >= redrive_count,
        DeadLetterState::Open => number > redrive_count,
        DeadLetterState::Discarded | DeadLetterState::Resolved => false,
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Publish it again.
    Redrive {
        /// It was named by its id, which brings back a discarded one.
        by_id: bool,
        /// Also while its redrive is under way: its copy is lost, since its topic was created anew
        /// or retention has removed it. The copy before, should it come after all, is a duplicate.
        again: bool,
    },
    /// Put it aside for good.
    Discard,
}

/// Why a wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing left to do: no failure.
    #[error("{0}")]
    Already(&'static str),
    /// It must not be done.
    #[error("{0}")]
    Never(String),
}

/// Whether the wish may be granted for this dead letter of the topic.
///
/// # Errors
/// The reason why not.
pub fn check(wish: Wish, letter: &Chosen, topic: &str) -> Result<(), Refusal> {
    use DeadLetterState::{Discarded, Open, Redriven, Resolved};
    let never = |why: &str| Err(Refusal::Never(why.to_owned()));
    match (wish, letter.state) {
        (Wish::Redrive { .. }, Resolved) => Err(Refusal::Already("it was redriven and applied")),
        (Wish::Redrive { again: false, .. }, Redriven) => {
            Err(Refusal::Already("its redrive is under way"))
        }
        (Wish::Redrive { by_id: false, .. }, Discarded) => {
            Err(Refusal::Already("it was discarded; name it by its id to redrive it all the same"))
        }
        (Wish::Redrive { .. }, Open | Redriven | Discarded) if letter.is_conflict => never(
            "id_conflict: another message with its id has its outcome; it has to be sent under a \
             new id",
        ),
        (Wish::Redrive { .. }, Open | Redriven | Discarded) if letter.topic != topic => {
            Err(Refusal::Never(format!(
                "it is of the topic {}, which this group does not read now",
                letter.topic
            )))
        }
        (Wish::Redrive { .. }, Open | Redriven | Discarded) | (Wish::Discard, Open) => Ok(()),
        (Wish::Discard, Discarded) => Err(Refusal::Already("it was discarded before")),
        (Wish::Discard, Redriven) => never("its redrive is under way"),
        (Wish::Discard, Resolved) => never("it was redriven and applied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, PartitionKey};
    use proptest::prelude::*;

    fn record(headers: &[(&str, &str)]) -> Record {
        Record {
            source: PartitionKey { topic: "t".into(), partition: 0 },
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: headers.iter().copied().collect::<Headers>(),
        }
    }

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    #[test]
    fn a_ticket_is_an_id_and_a_number_and_perhaps_a_group() {
        let ticket = Ticket::of(&record(&[("DLQ-Message-Id", ID), (COUNT_HEADER, "2")])).unwrap();
        assert_eq!((ticket.id.to_string().as_str(), ticket.number), (ID, 2));
        assert!(ticket.is_of("any"));
        let ours = [(ID_HEADER, ID), (COUNT_HEADER, "2"), (GROUP_HEADER, "g")];
        let ticket = Ticket::of(&record(&ours)).unwrap();
        assert!(ticket.is_of("g") && !ticket.is_of("h"));
    }

    #[test]
    fn whatever_is_no_ticket_is_an_ordinary_record() {
        let simple = ID.replace('-', "");
        for headers in [
            &[(ID_HEADER, ID)][..],
            &[(COUNT_HEADER, "1")],
            &[(ID_HEADER, ID), (COUNT_HEADER, "0")],
            &[(ID_HEADER, ID), (COUNT_HEADER, "-1")],
            &[(ID_HEADER, ID), (COUNT_HEADER, "many")],
            &[(ID_HEADER, ID), (COUNT_HEADER, "99999999999")],
            &[(ID_HEADER, &simple), (COUNT_HEADER, "1")],
            &[(ID_HEADER, "order-7"), (COUNT_HEADER, "1")],
        ] {
            assert_eq!(Ticket::of(&record(headers)), None, "{headers:?}");
        }
    }

    fn letter(state: DeadLetterState) -> Chosen {
        Chosen {
            dlq_id: Uuid::nil(),
            message_id: Uuid::nil(),
            topic: "t".to_owned(),
            partition: 0,
            offset: 0,
            error_code: "x".to_owned(),
            state,
            redrive_count: 0,
            is_conflict: false,
        }
    }

    #[test]
    fn only_what_is_open_is_redriven_or_discarded_and_what_was_discarded_by_its_id_alone() {
        let redrive = |by_id| Wish::Redrive { by_id, again: false };
        let again = Wish::Redrive { by_id: true, again: true };
        let granted =
            |wish| DeadLetterState::ALL.map(|state| check(wish, &letter(state), "t").is_ok());
        // Open, redriven, discarded, resolved.
        assert_eq!(granted(redrive(false)), [true, false, false, false]);
        assert_eq!(granted(redrive(true)), [true, false, true, false]);
        assert_eq!(granted(again), [true, true, true, false]);
        assert_eq!(granted(Wish::Discard), [true, false, false, false]);
        let conflict = Chosen { is_conflict: true, ..letter(DeadLetterState::Open) };
        assert!(matches!(check(redrive(true), &conflict, "t"), Err(Refusal::Never(_))));
        assert!(check(Wish::Discard, &conflict, "t").is_ok());
        let elsewhere = check(redrive(true), &letter(DeadLetterState::Open), "u");
        assert!(matches!(elsewhere, Err(Refusal::Never(_))));
    }

    proptest! {
        /// The life of a dead letter, with copies that come late, twice and in any order, and a
        /// database that forgets.
        #[test]
        fn whatever_copies_come_a_message_is_applied_once_at_most_and_no_number_counts_twice(
            steps in prop::collection::vec((0_u8..6, 1_i32..5, any::<bool>()), 1..60),
        ) {
            let (mut state, mut count) = (DeadLetterState::Open, 0);
            let (mut applied, mut used) = (0, Vec::new());
            for (step, number, succeeds) in steps {
                match step {
                    0 if state == DeadLetterState::Open => {
                        (state, count) = (DeadLetterState::Redriven, count + 1);
                    }
                    1 if state == DeadLetterState::Redriven => {
                        // Kafka refused the copy.
                        (state, count) = (DeadLetterState::Open, count - 1);
                    }
                    2 if state == DeadLetterState::Open => state = DeadLetterState::Discarded,
                    // Somebody takes the copy for lost, which it may be or not.
                    3 if state == DeadLetterState::Redriven => count += 1,
                    4.. if takes(state, count, number) => {
                        prop_assert!(!used.contains(&number), "{number} counted before");
                        used.push(number);
                        count = number;
                        applied += i32::from(succeeds);
                        state = if succeeds { DeadLetterState::Resolved } else { DeadLetterState::Open };
                    }
                    _ => {}
                }
            }
            prop_assert!(applied <= 1);
            prop_assert!(applied == 0 || state == DeadLetterState::Resolved);
        }
    }
}
