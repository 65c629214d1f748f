//! Who dies when, and how. Pure.

use std::fmt;

use crate::random::Random;

/// Who can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// `order-producer serve`
    Api,
    /// Whichever of gateway and consumer holds the lease of the outbox.
    Relay,
    /// `order-consumer run`
    Consumer,
    /// `notification-service run`
    Notifier,
    /// Kafka's process.
    Broker,
    /// PostgreSQL with all its backends.
    Database,
}

impl Victim {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Api, Self::Relay, Self::Consumer, Self::Notifier, Self::Broker, Self::Database];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Relay => "relay",
            Self::Consumer => "consumer",
            Self::Notifier => "notifier",
            Self::Broker => "broker",
            Self::Database => "database",
        }
    }

    /// Ways to die, one a round. The first ones are those that leave something half done.
    const fn ways(self) -> &'static [How] {
        match self {
            Self::Api => &[
                How::At("gateway.after_placing_before_answer"),
                How::AtOnce,
                How::At("gateway.before_commit"),
                How::At("gateway.before_placing"),
                How::At("gateway.after_commit_before_answer"),
            ],
            Self::Relay => &[
                How::At("relay.after_send_before_delete"),
                How::At("relay.before_send"),
                How::At("relay.after_delete"),
            ],
            Self::Consumer => &[
                How::At("consumer.before_commit"),
                How::AtOnce,
                How::At("consumer.after_commit"),
                How::At("consumer.after_effects"),
            ],
            // It relays its own dead letters, to those who have no address.
            Self::Notifier => &[
                How::At("notifier.after_send"),
                How::At("relay.after_send_before_delete"),
                How::AtOnce,
                How::At("notifier.before_send"),
                How::At("consumer.after_commit"),
            ],
            Self::Broker | Self::Database => &[How::AtOnce],
        }
    }
}

/// When a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Whatever it is at.
    AtOnce,
    /// Where it comes to this named point next.
    At(&'static str),
}

/// One of the deaths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// As soon as so many orders are answered.
    pub after_orders: u64,
    /// Who.
    pub victim: Victim,
    /// Where.
    pub how: How,
    /// How long until it is started again.
    pub down_ms: u64,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.victim.name())?;
        if let How::At(point) = self.how {
            write!(f, " at {point}")?;
        }
        Ok(())
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Orders.
    pub orders: u64,
    /// Orders a second, at most.
    pub rate: u64,
    /// Clients at once.
    pub clients: u64,
    /// How often each of the six is killed.
    pub rounds: u64,
}

impl Size {
    /// Orders for each death, at least: a point is reached only while there is work.
    pub const ORDERS_A_KILL: u64 = 100;

    /// Orders for all deaths, at least.
    pub fn least_orders(&self) -> u64 {
        self.rounds * Victim::ALL.len() as u64 * Self::ORDERS_A_KILL
    }
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its only source, with the size.
    pub seed: u64,
    /// How much.
    pub size: Size,
    /// In their order.
    pub kills: Vec<Kill>,
}

impl Plan {
    /// The plan of a seed and a size, always the same.
    pub fn of(seed: u64, size: Size) -> Self {
        let mut random = Random::new(seed, 10);
        let deaths = size.rounds * Victim::ALL.len() as u64;
        // The last part of the orders comes when everybody is back.
        let every = (size.orders / (deaths + 1)).max(1);
        let mut kills = Vec::new();
        for round in 0..size.rounds {
            let mut left = Victim::ALL.to_vec();
            while !left.is_empty() {
                let at = usize::try_from(random.between(0, left.len() as u64)).unwrap_or(0);
                let victim = left.swap_remove(at);
                let ways = victim.ways();
                let way = usize::try_from(round).unwrap_or(0) % ways.len();
                kills.push(Kill {
                    after_orders: (kills.len() as u64 + 1) * every
                        - random.between(0, every / 2 + 1),
                    victim,
                    how: ways[way],
                    down_ms: random.between(100, 2_000),
                });
            }
        }
        Self { seed, size, kills }
    }

    /// From this order on they go slowly until all kills are done.
    pub fn held_back_from(&self) -> u64 {
        let every = self.size.orders / (self.kills.len() as u64 + 1);
        self.size.orders.saturating_sub(every / 2)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { orders, rate, clients, rounds } = self.size;
        write!(
            f,
            "seed {}: {orders} orders by {clients} clients, {rate}/s at most; each of the six killed \
             {rounds} times",
            self.seed
        )?;
        for kill in &self.kills {
            let seconds = kill.down_ms as f64 / 1000.0;
            write!(
                f,
                "\n  from order {:>6}: {kill}, back after {seconds:.1} s",
                kill.after_orders
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use idempotent_consumer::failpoint;

    use super::*;

    fn plan(seed: u64, rounds: u64) -> Plan {
        Plan::of(seed, Size { orders: 1_500, rate: 200, clients: 8, rounds })
    }

    #[test]
    fn each_of_the_six_dies_once_a_round_before_the_last_orders_are_let_go() {
        for seed in 0..50 {
            let plan = plan(seed, 3);
            for (round, kills) in plan.kills.chunks(6).enumerate() {
                for victim in Victim::ALL {
                    let deaths = kills.iter().filter(|kill| kill.victim == victim).count();
                    assert_eq!(deaths, 1, "{victim:?} in round {round} of seed {seed}");
                }
            }
            assert_eq!(plan.kills.len(), 18);
            assert!(plan.kills.is_sorted_by_key(|kill| kill.after_orders));
            let last = plan.kills.last().map(|kill| kill.after_orders);
            assert!(last.is_some_and(|last| last < plan.held_back_from()), "{plan}");
        }
    }

    #[test]
    fn a_seed_is_one_plan_and_every_point_to_die_at_is_a_named_one() {
        assert_eq!(plan(7, 3).to_string(), plan(7, 3).to_string());
        assert_ne!(plan(7, 3).kills, plan(8, 3).kills);
        let named = [&failpoint::CONSUMER[..], &failpoint::GATEWAY, &failpoint::NOTIFIER].concat();
        for how in Victim::ALL.iter().flat_map(|victim| victim.ways()) {
            assert!(
                matches!(how, How::AtOnce)
                    || matches!(how, How::At(point) if named.contains(point))
            );
        }
    }
}
