//! What each strategy does under each fault, known before any run. A run that differs fails.

use crate::fault::Fault;
use crate::judge::Verdict;

const SAFE: Option<Verdict> = Some(Verdict::SAFE);
const LOSES: Option<Verdict> = Some(Verdict { loses: true, ..Verdict::SAFE });
const DOUBLES: Option<Verdict> = Some(Verdict { doubles: true, ..Verdict::SAFE });
/// The order row is right, and the running total is not.
const TOTALS: Option<Verdict> = Some(Verdict { doubles_totals: true, ..Verdict::SAFE });
const LATE: Option<Verdict> = Some(Verdict { out_of_order: true, ..Verdict::SAFE });
const STUCK: Option<Verdict> = Some(Verdict { stuck: true, ..Verdict::SAFE });
/// It has no lock that could be taken from it.
const NO_LOCK: Option<Verdict> = None;

type Row = (&'static str, [Option<Verdict>; Fault::ALL.len()]);

#[rustfmt::skip]
pub(crate) const TABLE: [Row; 18] = [
    //                              none  duplicates crash    frozen   rebalance lock-expiry poison
    ("naive-offset-before",         [SAFE, DOUBLES, LOSES,   LATE,    SAFE,    NO_LOCK, SAFE]),
    ("naive-offset-after",          [SAFE, DOUBLES, DOUBLES, DOUBLES, DOUBLES, NO_LOCK, SAFE]),
    ("no-dead-letter",              [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    STUCK]),
    ("check-then-insert",           [SAFE, SAFE,    SAFE,    DOUBLES, SAFE,    NO_LOCK, SAFE]),
    ("mark-before",                 [SAFE, SAFE,    LOSES,   LATE,    SAFE,    NO_LOCK, SAFE]),
    ("unique-claim",                [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("textbook-claim",              [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("upsert",                      [SAFE, TOTALS,  TOTALS,  TOTALS,  TOTALS,  NO_LOCK, SAFE]),
    ("upsert-guarded",              [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    NO_LOCK, SAFE]),
    ("row-lock",                    [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("serializable",                [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    NO_LOCK, SAFE]),
    ("advisory-lock",               [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("redis-lock",                  [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    DOUBLES, SAFE]),
    ("redis-lock-fenced",           [SAFE, SAFE,    SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("offset-in-database",          [SAFE, DOUBLES, SAFE,    SAFE,    SAFE,    SAFE,    SAFE]),
    ("kafka-transactions",          [SAFE, DOUBLES, SAFE,    SAFE,    SAFE,    NO_LOCK, SAFE]),
    ("kafka-transactions-database", [SAFE, DOUBLES, DOUBLES, DOUBLES, DOUBLES, NO_LOCK, SAFE]),
    ("kafka-transactions-http",     [SAFE, DOUBLES, DOUBLES, DOUBLES, DOUBLES, NO_LOCK, SAFE]),
];

/// `None`: the fault cannot happen to it, or there is no such strategy.
pub(crate) fn expected(strategy: &str, fault: Fault) -> Option<Verdict> {
    let (_, row) = TABLE.iter().find(|(name, _)| *name == strategy)?;
    row[fault as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    #[test]
    fn every_strategy_has_a_row_and_every_row_a_strategy() {
        let rows: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        let all: Vec<&str> = catalog::all().iter().map(|strategy| strategy.name).collect();
        assert_eq!(rows, all);
    }

    #[test]
    fn a_lock_can_be_taken_from_those_that_have_one() {
        for strategy in catalog::all() {
            let has_lock = strategy.is_engine() || !strategy.under_lock.is_empty();
            let is_judged = expected(strategy.name, Fault::LockExpiry).is_some();
            assert_eq!(is_judged, has_lock, "{}", strategy.name);
        }
    }

    #[test]
    fn ours_is_safe_under_every_fault() {
        for fault in Fault::ALL {
            assert_eq!(expected("unique-claim", fault), SAFE);
        }
    }
}
