//! Drops faults from a plan that fails, one after the other, while it still does.

use crate::plan::Plan;

/// The plan without one of its faults: each in turn.
pub fn smaller(plan: &Plan) -> impl Iterator<Item = Plan> + '_ {
    (0..plan.faults.len()).map(|index| {
        let mut smaller = plan.clone();
        smaller.faults.remove(index);
        smaller
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_smaller_plan_lacks_one_fault() {
        let plan = Plan::of(7);
        assert_eq!(smaller(&plan).count(), plan.faults.len());
        assert!(smaller(&plan).all(|smaller| smaller.faults.len() + 1 == plan.faults.len()));
    }
}
