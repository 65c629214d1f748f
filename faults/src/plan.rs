//! A seed becomes a plan. Pure.

use std::fmt;

use idempotent_consumer::failpoint;

use crate::fault::{Fault, Kind, Link, What};
use crate::proxy::{Cut, Harm};
use crate::random::Random;

/// Consumers are taken for dead after this time.
pub const SESSION_TIMEOUT_MS: u64 = 3_000;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Messages.
    pub messages: u64,
    /// Messages a second.
    pub rate: u64,
    /// Distinct keys.
    pub customers: u64,
    /// Percent.
    pub duplicates: u64,
    /// Percent.
    pub poison: u64,
    /// Percent of status events.
    pub lifecycle: u64,
}

/// Everything that a seed decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its only source.
    pub seed: u64,
    /// What is sent.
    pub load: Load,
    /// How many consumers run throughout.
    pub consumers: u64,
    /// Their `--batch-size`.
    pub batch_size: u64,
    /// Their `--concurrency`.
    pub concurrency: u64,
    /// In the order of their times.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed, always the same.
    pub fn of(seed: u64) -> Self {
        Self::drawn_from(seed, &Kind::ALL)
    }

    /// The plan of a seed with these kinds only, of which there is at least one.
    pub fn drawn_from(seed: u64, kinds: &[Kind]) -> Self {
        let mut random = Random::new(seed, 1);
        let rate = random.between(150, 500);
        let load_ms = random.between(7_000, 11_000);
        let mut load = Load {
            messages: rate * load_ms / 1000,
            rate,
            customers: random.one_of(&[3, 20, 200]),
            duplicates: random.one_of(&[0, 10, 50]),
            poison: random.one_of(&[0, 1, 20]),
            lifecycle: random.one_of(&[0, 20]),
        };
        if load.poison == 20 && load.duplicates == 50 {
            // Duplicates and status events need orders to refer to.
            load.lifecycle = 0;
        }
        // Seeds in a row take turns, so that each kind comes in every so many.
        let first = kinds[usize::try_from(seed % kinds.len() as u64).unwrap_or(0)];
        let mut drawn = vec![first];
        for _ in 0..random.between(1, 4) {
            // Deaths have the most places to come at.
            let death =
                random.one_of(&[true, false, false]) && kinds.contains(&Kind::ConsumerKilled);
            let kind = if death { Kind::ConsumerKilled } else { random.one_of(kinds) };
            if drawn.iter().all(|other| go_together(*other, kind)) {
                drawn.push(kind);
            }
        }
        let mut faults: Vec<Fault> =
            drawn.into_iter().map(|kind| fault(kind, load_ms, &mut random)).collect();
        faults.sort_by_key(|fault| fault.at_ms);
        let retries = [Kind::CustomersRefused, Kind::TablesLocked, Kind::StatementsCancelled];
        if faults.iter().any(needs_retries)
            && !faults.iter().any(|fault| retries.contains(&fault.kind))
            && faults.iter().all(|fault| go_together(fault.kind, Kind::CustomersRefused))
        {
            faults.push(Fault { at_ms: 0, ..fault(Kind::CustomersRefused, load_ms, &mut random) });
            faults.rotate_right(1);
        }
        if load.poison == 0 && faults.iter().any(needs_dead_letters) {
            load.poison = 1;
        }
        Self {
            seed,
            load,
            consumers: random.between(1, 4),
            batch_size: random.one_of(&[5, 50, 1000]),
            concurrency: random.one_of(&[1, 4]),
            faults,
        }
    }

    /// Names of the kinds in it, those of the load included.
    pub fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> =
            self.faults.iter().map(|fault| fault.kind.name().to_owned()).collect();
        kinds.push(format!("duplicates-{}", self.load.duplicates));
        kinds.push(format!("poison-{}", self.load.poison));
        kinds
    }
}

/// Whether both may be in one plan.
fn go_together(one: Kind, other: Kind) -> bool {
    let is_about_dlq =
        |kind| matches!(kind, Kind::DlqDeleted | Kind::DlqRefused | Kind::DlqTooSmall);
    one != other
        && !(is_about_dlq(one) && is_about_dlq(other))
        // The small mount is no part of the state that is kept, and a trigger would be.
        && !matches!(
            (one, other),
            (Kind::DiskFull | Kind::CustomersRefused, Kind::DatabaseSetBack)
                | (Kind::DatabaseSetBack, Kind::DiskFull | Kind::CustomersRefused)
        )
}

fn needs_retries(fault: &Fault) -> bool {
    matches!(fault.what, What::Point(point, _) if point.ends_with("_retry_queue"))
}

fn needs_dead_letters(fault: &Fault) -> bool {
    match fault.what {
        What::Point(point, _) => point.starts_with("relay.") || point.contains("dead_letters"),
        _ => matches!(fault.kind, Kind::DlqDeleted | Kind::DlqRefused | Kind::DlqTooSmall),
    }
}

fn fault(kind: Kind, load_ms: u64, random: &mut Random) -> Fault {
    let mut at_ms = random.between(500, load_ms * 7 / 10);
    let mut for_ms = random.between(500, 4_000);
    let what = match kind {
        Kind::ConsumerKilled => {
            let point = random.one_of(&failpoint::CONSUMER);
            // Some are met once in a life, others with each batch.
            let rare = !point.starts_with("consumer.") || point.contains("take_over");
            for_ms = 5_000;
            What::Point(point, random.between(1, if rare { 2 } else { 12 }))
        }
        Kind::ProducerKilled => {
            What::Point(random.one_of(&failpoint::PRODUCER), random.between(1, 300))
        }
        Kind::ConsumerFrozen => {
            for_ms = SESSION_TIMEOUT_MS + random.between(500, 3_000);
            What::Plain
        }
        // Longer than the lock timeout, half of the time.
        Kind::TablesLocked => {
            for_ms = random.between(2_000, 9_000);
            What::Plain
        }
        Kind::ConnectionsCut => What::Link(link(random), Harm::None),
        Kind::ConnectionsDelayed => {
            What::Link(link(random), Harm::Delayed { ms: random.between(20, 300) })
        }
        Kind::ConnectionsThrottled => {
            What::Link(link(random), Harm::Throttled { kib_per_s: random.between(4, 64) })
        }
        Kind::ConnectionsHalfClosed => {
            What::Link(link(random), random.one_of(&[Harm::ToClientClosed, Harm::ToServerClosed]))
        }
        Kind::ConnectionsSilent => What::Link(link(random), Harm::Silent),
        Kind::CommitCut | Kind::AcknowledgementCut => {
            let cut = random.one_of(&[Cut::BeforeTheServer, Cut::BeforeTheClient]);
            What::Cut(cut, u32::try_from(random.between(1, 6)).unwrap_or(1))
        }
        Kind::ClockStepped => What::Seconds(random.one_of(&[3600, -3600])),
        Kind::DlqDeleted | Kind::DlqRefused | Kind::DlqTooSmall => {
            at_ms = 0;
            for_ms = random.between(3_000, load_ms);
            What::Plain
        }
        Kind::ConsumersComeAndGo
        | Kind::BrokerKilled
        | Kind::DatabaseKilled
        | Kind::DatabaseSetBack
        | Kind::BackendsTerminated
        | Kind::StatementsCancelled
        | Kind::DiskFull
        | Kind::CustomersRefused => What::Plain,
    };
    Fault { kind, what, at_ms, for_ms }
}

fn link(random: &mut Random) -> Link {
    random.one_of(&[Link::ConsumerToDatabase, Link::ConsumerToBroker, Link::ProducerToBroker])
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { messages, rate, customers, duplicates, poison, lifecycle } = self.load;
        writeln!(
            f,
            "seed {}: {messages} messages at {rate}/s over {customers} customers, {duplicates} % \
             duplicates, {poison} % poison, {lifecycle} % status events",
            self.seed
        )?;
        write!(
            f,
            "  {} consumers, --batch-size {}, --concurrency {}",
            self.consumers, self.batch_size, self.concurrency
        )?;
        for fault in &self.faults {
            let (at, lasts) = (fault.at_ms as f64 / 1e3, fault.for_ms as f64 / 1e3);
            write!(f, "\n  at {at:>4.1} s for {lasts:>4.1} s: {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn one_seed_is_one_plan_within_its_bounds(seed in any::<u64>()) {
            let plan = Plan::of(seed);
            prop_assert_eq!(&plan, &Plan::of(seed));
            prop_assert!((1..=5).contains(&plan.faults.len()));
            prop_assert!((1..=3).contains(&plan.consumers));
            let load_ms = plan.load.messages * 1000 / plan.load.rate + 1000;
            prop_assert!(plan.faults.iter().all(|fault| fault.at_ms < load_ms && fault.for_ms < 12_000));
            let kinds: HashSet<Kind> = plan.faults.iter().map(|fault| fault.kind).collect();
            prop_assert_eq!(kinds.len(), plan.faults.len());
        }
    }

    #[test]
    fn each_kind_comes_in_every_so_many_seeds_in_a_row() {
        let seeds = 0..Kind::ALL.len() as u64;
        let kinds: HashSet<Kind> =
            seeds.flat_map(|seed| Plan::of(seed).faults).map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
    }

    #[test]
    fn each_point_and_each_share_of_duplicates_and_poison_is_drawn() {
        let plans: Vec<Plan> = (0..3_000).map(Plan::of).collect();
        let points: HashSet<&str> = plans
            .iter()
            .flat_map(|plan| &plan.faults)
            .filter_map(|fault| match fault.what {
                What::Point(point, _) => Some(point),
                _ => None,
            })
            .collect();
        assert_eq!(points.len(), failpoint::CONSUMER.len() + failpoint::PRODUCER.len());
        let shares: HashSet<(u64, u64)> =
            plans.iter().map(|plan| (plan.load.duplicates, plan.load.poison)).collect();
        assert_eq!(shares.len(), 9);
    }
}
