//! Where a lane begins. Pure.

use crate::kafka::facts::PartitionFacts;

/// Where to begin, or why not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Read from here on.
    At {
        offset: i64,
        /// Offsets that are gone from the log and were never read.
        lost: Option<(i64, i64)>,
    },
    /// The log is not the one that the database knows. An operator has to accept it.
    Stopped(String),
}

/// Decides where a lane begins: at the smaller of Kafka's offset and the database's, so that
/// neither one that ran ahead loses anything. What is read again is found to be claimed.
pub(crate) fn start_of(topic_id: &str, next_offset: i64, facts: &PartitionFacts) -> Start {
    if topic_id != facts.topic_id {
        return Start::Stopped(format!(
            "the topic was created anew: its id is {} and the database's progress is of {topic_id}; \
             if that is meant, `accept` begins it again at offset {}",
            facts.topic_id, facts.log_start
        ));
    }
    if next_offset > facts.log_end {
        return Start::Stopped(format!(
            "the database has progressed to offset {next_offset}, but the log ends at {}: records were \
             lost in Kafka; if that is known, `accept` begins again at offset {}, and what is there \
             already counts as duplicate",
            facts.log_end, facts.log_start
        ));
    }
    let lost = (next_offset < facts.log_start).then_some((next_offset, facts.log_start));
    let offset = facts.committed.map_or(next_offset, |committed| committed.min(next_offset));
    Start::At { offset: offset.max(facts.log_start), lost }
}

/// Whether a partition that the topic no longer has, since it was created anew with fewer, stands as
/// an operator's `accept` leaves it: at the beginning of the topic as it is now.
pub(crate) fn is_given_up(topic_id: &str, next_offset: i64, current_topic_id: &str) -> bool {
    topic_id == current_topic_id && next_offset == 0
}

/// Why a partition that the topic no longer has waits for an operator; `None` if it does not.
pub(crate) fn without_log(
    topic_id: &str,
    next_offset: i64,
    current_topic_id: &str,
) -> Option<String> {
    (!is_given_up(topic_id, next_offset, current_topic_id)).then(|| {
        format!(
            "the database has progressed to offset {next_offset}, but the topic has no such \
             partition; if it was created anew with fewer of them, `accept` gives this one up"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(log_start: i64, log_end: i64, committed: Option<i64>) -> PartitionFacts {
        PartitionFacts { topic_id: "a".into(), log_start, log_end, committed }
    }

    #[test]
    fn a_topic_created_anew_or_a_log_cut_short_waits_for_an_operator() {
        assert!(matches!(start_of("b", 0, &facts(0, 10, None)), Start::Stopped(_)));
        assert!(matches!(start_of("a", 11, &facts(0, 10, Some(11))), Start::Stopped(_)));
    }

    #[test]
    fn a_database_set_back_is_caught_up_from_its_own_progress() {
        assert_eq!(start_of("a", 3, &facts(0, 10, Some(10))), Start::At { offset: 3, lost: None });
    }

    #[test]
    fn lost_offsets_of_the_group_do_not_matter() {
        assert_eq!(start_of("a", 7, &facts(0, 10, None)), Start::At { offset: 7, lost: None });
    }

    #[test]
    fn what_retention_took_is_named() {
        assert_eq!(
            start_of("a", 3, &facts(5, 10, Some(3))),
            Start::At { offset: 5, lost: Some((3, 5)) }
        );
    }

    proptest! {
        #[test]
        fn nothing_that_is_in_the_log_and_not_in_the_database_is_ever_skipped(
            next in 0_i64..50, start in 0_i64..50, len in 0_i64..50, committed in prop::option::of(0_i64..150),
        ) {
            let facts = facts(start, start + len, committed);
            match start_of("a", next, &facts) {
                Start::At { offset, lost } => {
                    prop_assert!(offset <= next.max(start));
                    prop_assert!(offset >= start);
                    prop_assert_eq!(lost.is_some(), next < start);
                }
                Start::Stopped(_) => prop_assert!(next > start + len),
            }
        }
    }
}
