//! Contenders take turns, so that what else the machine does meets all of them: once in their order,
//! once the other way round, so that what one leaves behind does not always meet the same other.

use std::time::Instant;

use crate::contender::{Contender, Run};
use crate::stage::Stage;

/// Runs each so many times, one after the other. Returns the runs of each, in their order.
pub(crate) async fn take_turns(
    stage: &Stage,
    contenders: &[Contender],
    runs: u32,
) -> anyhow::Result<Vec<Vec<Run>>> {
    let mut all = vec![Vec::new(); contenders.len()];
    for number in 1..=runs {
        for turn in 0..contenders.len() {
            let at = if number % 2 == 1 { turn } else { contenders.len() - 1 - turn };
            let contender = &contenders[at];
            let begun = Instant::now();
            let run = contender.run(stage).await?;
            eprintln!(
                "run {number} of {runs}: {}: {:.0} events/s ({:.0} s)",
                contender.name(),
                run.rate(),
                begun.elapsed().as_secs_f64()
            );
            all[at].push(run);
        }
    }
    Ok(all)
}

/// The one in the middle, and how far they spread: (most - least) / median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) spread: f64,
}

/// Of at least one value.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (half, odd) = (values.len() / 2, values.len() % 2 == 1);
    let median = match values.get(half) {
        Some(upper) if odd => *upper,
        Some(upper) => f64::midpoint(values[half - 1], *upper),
        None => f64::NAN,
    };
    let range = values.last().zip(values.first()).map_or(0.0, |(last, first)| last - first);
    Spread { median, spread: range / median }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_is_in_the_middle_and_one_run_has_no_spread() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Spread { median: 2.0, spread: 1.0 });
        assert_eq!(spread([4.0, 1.0]), Spread { median: 2.5, spread: 1.2 });
        assert_eq!(spread([7.0]), Spread { median: 7.0, spread: 0.0 });
    }

    proptest! {
        #[test]
        fn as_many_are_above_as_below(values in prop::collection::vec(1.0_f64..1e6, 1..20)) {
            let median = spread(values.iter().copied()).median;
            let above = values.iter().filter(|value| **value > median).count();
            let below = values.iter().filter(|value| **value < median).count();
            prop_assert!(above <= values.len() / 2 && below <= values.len() / 2);
        }
    }
}
