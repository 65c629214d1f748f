//! What each message of a load is. Pure: a plan is a function of seed, number and shares.

use super::random::Random;

const PURPOSE: u64 = 1;

/// Percentages of all messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shares {
    pub(super) duplicates: f64,
    pub(super) poison: f64,
    pub(super) lifecycle: f64,
}

/// One message to send, by number within its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A new order.
    Order(u64),
    /// A status event: two by two, the first and second of order 0, of order 1, …
    Status(u64),
    /// A message that was sent before, again.
    Duplicate(Original),
    /// Something that no consumer can apply.
    Poison(u64),
}

/// What a duplicate repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Original {
    Order(u64),
    Status(u64),
}

/// Status events of one order: paid, then fulfilled or cancelled.
pub(super) const STATUS_EVENTS_PER_ORDER: u64 = 2;
/// "Soon after" means among so many originals before.
const NEAR: u64 = 50;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("--duplicates, --poison and --lifecycle together exceed 100 percent")]
    TooMuch,
    #[error(
        "--duplicates and --lifecycle need orders to refer to: lower the percentages or raise --orders"
    )]
    NothingToReferTo,
}

/// The messages of a load in their order. Counts are exact, places are random.
#[derive(Debug)]
pub(super) struct Plan {
    random: Random,
    /// Still to come.
    left: Counts,
    /// Already out.
    done: Counts,
    last: Original,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    orders: u64,
    status: u64,
    duplicates: u64,
    poison: u64,
}

impl Plan {
    pub(super) fn new(seed: u64, messages: u64, shares: Shares) -> Result<Self, PlanError> {
        let share = |percent: f64| part(messages, percent);
        let (duplicates, poison, status) =
            (share(shares.duplicates), share(shares.poison), share(shares.lifecycle));
        let others = duplicates.saturating_add(poison).saturating_add(status);
        let orders = messages.checked_sub(others).ok_or(PlanError::TooMuch)?;
        let nothing_to_repeat = duplicates > 0 && orders == 0;
        if nothing_to_repeat || status > orders.saturating_mul(STATUS_EVENTS_PER_ORDER) {
            return Err(PlanError::NothingToReferTo);
        }
        Ok(Self {
            random: Random::new(seed, PURPOSE, 0),
            left: Counts { orders, status, duplicates, poison },
            done: Counts::default(),
            last: Original::Order(0),
        })
    }

    fn order(&mut self) -> Step {
        self.left.orders -= 1;
        let index = self.done.orders;
        self.done.orders += 1;
        self.last = Original::Order(index);
        Step::Order(index)
    }

    fn status(&mut self) -> Step {
        // Its order has to be out; as long as it is not, orders are left.
        if self.done.status / STATUS_EVENTS_PER_ORDER >= self.done.orders {
            return self.order();
        }
        self.left.status -= 1;
        let index = self.done.status;
        self.done.status += 1;
        self.last = Original::Status(index);
        Step::Status(index)
    }

    fn duplicate(&mut self) -> Step {
        if self.done.orders == 0 {
            return self.order();
        }
        self.left.duplicates -= 1;
        // At once, soon after, or any time later.
        let original = match self.random.below(10) {
            0..3 => self.last,
            3..6 => {
                let back = 1 + self.random.below(NEAR.min(self.done.orders));
                Original::Order(self.done.orders - back)
            }
            _ => {
                let any = self.random.below(self.done.orders + self.done.status);
                any.checked_sub(self.done.orders).map_or(Original::Order(any), Original::Status)
            }
        };
        Step::Duplicate(original)
    }
}

impl Iterator for Plan {
    type Item = Step;

    /// Draws without putting back, so that every place is equally likely and the counts exact.
    fn next(&mut self) -> Option<Step> {
        let Counts { orders, status, duplicates, poison } = self.left;
        let total = orders + status + duplicates + poison;
        if total == 0 {
            return None;
        }
        let mut drawn = if orders == total { 0 } else { self.random.below(total) };
        if drawn < orders {
            return Some(self.order());
        }
        drawn -= orders;
        if drawn < status {
            return Some(self.status());
        }
        drawn -= status;
        if drawn < duplicates {
            return Some(self.duplicate());
        }
        self.left.poison -= 1;
        let index = self.done.poison;
        self.done.poison += 1;
        Some(Step::Poison(index))
    }
}

/// `percent` of `whole`, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage is 0 to 100, so the part is 0 to whole"
)]
fn part(whole: u64, percent: f64) -> u64 {
    ((whole as f64 * percent / 100.0).round() as u64).min(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(duplicates: f64, poison: f64, lifecycle: f64) -> Shares {
        Shares { duplicates, poison, lifecycle }
    }

    fn count(plan: Plan, wanted: impl Fn(&Step) -> bool) -> usize {
        plan.filter(|step| wanted(step)).count()
    }

    #[test]
    fn ten_thousand_with_10_percent_duplicates_and_half_a_percent_poison_are_counted_exactly() {
        let plan = || Plan::new(1, 10_000, shares(10.0, 0.5, 0.0)).unwrap();
        assert_eq!(count(plan(), |s| matches!(s, Step::Order(_))), 8_950);
        assert_eq!(count(plan(), |s| matches!(s, Step::Duplicate(_))), 1_000);
        assert_eq!(count(plan(), |s| matches!(s, Step::Poison(_))), 50);
    }

    #[test]
    fn numbers_run_from_zero_and_nothing_refers_to_what_is_not_out_yet() {
        for seed in 0..20 {
            let plan = Plan::new(seed, 500, shares(20.0, 5.0, 45.0)).unwrap();
            let (mut orders, mut status, mut poison) = (0, 0, 0);
            for step in plan {
                match step {
                    Step::Order(index) => {
                        assert_eq!(index, orders);
                        orders += 1;
                    }
                    Step::Status(index) => {
                        assert_eq!(index, status);
                        assert!(index / STATUS_EVENTS_PER_ORDER < orders);
                        status += 1;
                    }
                    Step::Duplicate(Original::Order(index)) => assert!(index < orders),
                    Step::Duplicate(Original::Status(index)) => assert!(index < status),
                    Step::Poison(index) => {
                        assert_eq!(index, poison);
                        poison += 1;
                    }
                }
            }
            assert_eq!((orders, status, poison), (150, 225, 25));
        }
    }

    #[test]
    fn some_duplicates_follow_at_once_and_some_far_later() {
        let plan = Plan::new(3, 10_000, shares(10.0, 0.0, 0.0)).unwrap();
        let (mut orders, mut at_once, mut far) = (0_u64, 0, 0);
        for step in plan {
            match step {
                Step::Order(_) => orders += 1,
                Step::Duplicate(Original::Order(index)) if index + 1 == orders => at_once += 1,
                Step::Duplicate(Original::Order(index)) if index + 1000 < orders => far += 1,
                _ => {}
            }
        }
        assert!(at_once > 200 && far > 200, "{at_once} at once, {far} far later");
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_another() {
        let plan =
            |seed| Plan::new(seed, 300, shares(10.0, 5.0, 20.0)).unwrap().collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        let error = |a, b, c| Plan::new(1, 100, shares(a, b, c)).unwrap_err();
        assert_eq!(error(60.0, 41.0, 0.0), PlanError::TooMuch);
        assert_eq!(error(100.0, 0.0, 0.0), PlanError::NothingToReferTo);
        assert_eq!(error(0.0, 0.0, 67.0), PlanError::NothingToReferTo);
        assert!(Plan::new(1, 100, shares(0.0, 100.0, 0.0)).is_ok());
    }
}
