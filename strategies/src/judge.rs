//! From what is found in the database to a verdict. Pure.

use std::fmt;

use serde::Serialize;

/// What differs from what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    pub(crate) lost_orders: u64,
    pub(crate) doubled_orders: u64,
    pub(crate) missing_cents: u64,
    pub(crate) surplus_cents: u64,
    pub(crate) out_of_order: u64,
    /// Garbage that is neither in the way nor among the dead letters.
    pub(crate) lost_poison: u64,
    pub(crate) is_stuck: bool,
}

/// What a strategy did wrong, and how often: orders, or cents where only a total differs.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = Verdict::of(self);
        let lost = match (self.lost_orders, self.missing_cents) {
            (0, 0) => format!("loses {} of garbage", self.lost_poison),
            (0, cents) => format!("loses {cents} cents"),
            (orders, _) => format!("loses {orders}"),
        };
        f.write_str(&listed([
            (is.loses, lost),
            (is.doubles, format!("doubles {}", self.doubled_orders)),
            (is.doubles_totals, format!("doubles totals by {} cents", self.surplus_cents)),
            (is.out_of_order, format!("out of order {}", self.out_of_order)),
            (is.stuck, "stuck".to_owned()),
        ]))
    }
}

/// What is wrong, or that nothing is.
fn listed<const N: usize>(names: [(bool, String); N]) -> String {
    let wrong: Vec<String> =
        names.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
    if wrong.is_empty() { "safe".to_owned() } else { wrong.join(", ") }
}

/// What a strategy did wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) loses: bool,
    /// Order rows, and their amounts in the totals.
    pub(crate) doubles: bool,
    /// Amounts in the totals, while the order rows are as they should be.
    pub(crate) doubles_totals: bool,
    pub(crate) out_of_order: bool,
    pub(crate) stuck: bool,
}

impl Verdict {
    pub(crate) const SAFE: Self = Self {
        loses: false,
        doubles: false,
        doubles_totals: false,
        out_of_order: false,
        stuck: false,
    };

    /// Of facts.
    pub(crate) fn of(facts: &Facts) -> Self {
        let doubles = facts.doubled_orders > 0;
        Self {
            // What stands behind a record that is stuck is late, not lost.
            loses: !facts.is_stuck
                && (facts.lost_orders > 0 || facts.missing_cents > 0 || facts.lost_poison > 0),
            doubles,
            doubles_totals: !doubles && facts.surplus_cents > 0,
            out_of_order: facts.out_of_order > 0,
            stuck: facts.is_stuck,
        }
    }

    pub(crate) fn is_safe(self) -> bool {
        self == Self::SAFE
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.loses, "loses"),
            (self.doubles, "doubles"),
            (self.doubles_totals, "doubles totals"),
            (self.out_of_order, "out of order"),
            (self.stuck, "stuck"),
        ];
        f.write_str(&listed(names.map(|(is, name)| (is, name.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_is_a_verdict_of_its_own() {
        let of = |facts| Verdict::of(&facts).to_string();
        assert_eq!(of(Facts::default()), "safe");
        assert_eq!(of(Facts { lost_orders: 1, missing_cents: 5, ..Facts::default() }), "loses");
        assert_eq!(of(Facts { missing_cents: 1, ..Facts::default() }), "loses");
        assert_eq!(of(Facts { lost_poison: 1, ..Facts::default() }), "loses");
        assert_eq!(
            of(Facts { doubled_orders: 1, surplus_cents: 5, ..Facts::default() }),
            "doubles"
        );
        assert_eq!(of(Facts { surplus_cents: 1, ..Facts::default() }), "doubles totals");
        assert_eq!(of(Facts { out_of_order: 1, ..Facts::default() }), "out of order");
        let all = Facts { lost_orders: 1, doubled_orders: 1, out_of_order: 1, ..Facts::default() };
        assert_eq!(of(all), "loses, doubles, out of order");
    }

    #[test]
    fn what_is_wrong_is_counted() {
        let text = |facts: Facts| facts.to_string();
        assert_eq!(text(Facts::default()), "safe");
        let lost = Facts { lost_orders: 3, missing_cents: 70, ..Facts::default() };
        assert_eq!(text(lost), "loses 3");
        assert_eq!(text(Facts { missing_cents: 70, ..Facts::default() }), "loses 70 cents");
        assert_eq!(text(Facts { lost_poison: 1, ..Facts::default() }), "loses 1 of garbage");
        let all = Facts { doubled_orders: 2, surplus_cents: 9, out_of_order: 4, ..lost };
        assert_eq!(text(all), "loses 3, doubles 2, out of order 4");
        let totals = Facts { surplus_cents: 9, ..Facts::default() };
        assert_eq!(text(totals), "doubles totals by 9 cents");
        assert_eq!(text(Facts { is_stuck: true, ..lost }), "stuck");
    }

    #[test]
    fn what_stands_behind_a_stuck_record_is_not_lost() {
        let facts = Facts { lost_orders: 9, missing_cents: 9, is_stuck: true, ..Facts::default() };
        assert_eq!(Verdict::of(&facts).to_string(), "stuck");
    }
}
