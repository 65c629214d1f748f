//! The deaths of a plan, one after the other.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use local_stack::{Stack, StackError};
use tokio::sync::watch;
use tokio::time::sleep;

use super::clients::Book;
use super::fleet::{Fleet, Member};
use super::look;
use super::plan::{How, Kill, Plan, Victim};
use super::recovery::Recoveries;

/// How long it may take until a process comes to a point. Behind the death of a relay the next one has
/// to wait for its lease of 15 s, and behind a broker's a producer that hears nothing for 20 s is replaced.
const POINT_WITHIN: Duration = Duration::from_mins(3);
/// Where a relay has rows that are not sent, so that the one behind it has something to do.
const HANDS_FULL: &str = "relay.before_send";

/// Who died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) victim: Victim,
    /// In which process it was the relay's.
    pub(super) relay_of: Option<Member>,
}

impl Death {
    /// Whether it can come between a mail and its commit. The broker's cannot: a mail is sent once the
    /// broker has been asked all there is to ask.
    pub(super) const fn cuts_mails(self) -> bool {
        matches!(self.victim, Victim::Notifier | Victim::Database)
    }
}

/// Performs a plan while the orders come.
pub(super) struct Killer<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) plan: &'a Plan,
    pub(super) book: &'a Book,
    pub(super) answered: watch::Receiver<u64>,
    pub(super) recoveries: &'a Recoveries,
    pub(super) deaths: Vec<Death>,
}

impl Killer<'_> {
    /// All of them. An error means that it could not be done.
    pub(super) async fn kill_all(mut self) -> anyhow::Result<Vec<Death>> {
        let plan = self.plan;
        for (number, kill) in plan.kills.iter().enumerate() {
            // Up to where the next one is due, and all of them when nobody has to die any more.
            let next =
                plan.kills.get(number + 1).map_or(plan.held_back_from(), |kill| kill.after_orders);
            self.book.allow(next);
            self.answered.wait_for(|answered| *answered >= kill.after_orders).await?;
            self.kill(kill).await.with_context(|| kill.to_string())?;
            self.recoveries.begin(self.fleet, kill.victim.name()).await?;
        }
        self.book.allow(u64::MAX);
        Ok(self.deaths)
    }

    async fn kill(&mut self, kill: &Kill) -> anyhow::Result<()> {
        let down = Duration::from_millis(kill.down_ms);
        match kill.victim {
            Victim::Api => self.kill_member(Member::Api, kill.how, down).await,
            Victim::Consumer => self.kill_member(Member::Consumer, kill.how, down).await,
            Victim::Notifier => self.kill_member(Member::Notifier, kill.how, down).await,
            Victim::Relay => self.kill_relay(kill.how, down).await,
            Victim::Broker | Victim::Database => self.kill_server(kill.victim, down).await,
        }
    }

    async fn kill_member(
        &mut self,
        member: Member,
        how: How,
        down: Duration,
    ) -> anyhow::Result<()> {
        let rows = self.outbox().await;
        let name = match how {
            How::AtOnce => self.fleet.kill(member).await?,
            How::At(point) => match self.fleet.kill_at(&[(member, point)], POINT_WITHIN).await? {
                Some((_, name)) => name,
                None => bail!("{} did not come to {point} in {POINT_WITHIN:?}", member.name()),
            },
        };
        let victim = match member {
            Member::Api => Victim::Api,
            Member::Consumer => Victim::Consumer,
            Member::Notifier => Victim::Notifier,
        };
        self.died(victim, None, &name, how, rows);
        self.bring_back(member, down).await
    }

    /// Kills whichever process relays, each of the two in turn. Where the other one has the lease, it
    /// dies first, and stays away until this one has taken the lease over.
    async fn kill_relay(&mut self, how: How, down: Duration) -> anyhow::Result<()> {
        let How::At(point) = how else { bail!("a relay dies at a point") };
        let rows = self.outbox().await;
        let of = |deaths: &[Death], member| {
            deaths.iter().filter(|death| death.relay_of == Some(member)).count()
        };
        let (api, consumer) = (of(&self.deaths, Member::Api), of(&self.deaths, Member::Consumer));
        let points = match api.cmp(&consumer) {
            Ordering::Equal => [(Member::Api, point), (Member::Consumer, point)],
            Ordering::Less => [(Member::Api, point), (Member::Consumer, HANDS_FULL)],
            Ordering::Greater => [(Member::Consumer, point), (Member::Api, HANDS_FULL)],
        };
        let [(wanted, _), (other, _)] = points;
        let nobody = || format!("no relay came to {point}");
        let mut died = self.fleet.kill_at(&points, POINT_WITHIN).await?.with_context(nobody)?;
        let is_other_away = api != consumer && died.0 == other;
        if is_other_away {
            self.fleet.timeline.note(format!(
                "SIGKILL to {} as the relay at {HANDS_FULL}; it stays away until {} relays",
                died.1,
                wanted.name()
            ));
            let taken_over = self.fleet.kill_at(&[(wanted, point)], POINT_WITHIN).await?;
            died = taken_over.with_context(nobody)?;
        }
        let (member, name) = died;
        self.died(Victim::Relay, Some(member), &name, how, rows);
        if is_other_away {
            self.bring_back(other, Duration::ZERO).await?;
        }
        self.bring_back(member, down).await
    }

    async fn kill_server(&mut self, victim: Victim, down: Duration) -> anyhow::Result<()> {
        let rows = self.outbox().await;
        self.fleet.servers_are_up(false);
        self.with_stack(move |stack| match victim {
            Victim::Broker => {
                stack.kafka().kill();
                Ok(())
            }
            _ => stack.postgres().kill_with_backends(),
        })
        .await?;
        self.died(victim, None, victim.name(), How::AtOnce, rows);
        sleep(down).await;
        self.with_stack(move |stack| match victim {
            Victim::Broker => stack.kafka().start(),
            _ => stack.postgres().start(),
        })
        .await?;
        self.fleet.servers_are_up(true);
        self.fleet.timeline.note(format!("{} is back", victim.name()));
        Ok(())
    }

    /// On a thread of its own: it blocks, and the clients go on.
    async fn with_stack(
        &self,
        work: impl FnOnce(&Stack) -> Result<(), StackError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let stack = Arc::clone(&self.fleet.stack);
        Ok(tokio::task::spawn_blocking(move || work(&stack)).await??)
    }

    async fn bring_back(&self, member: Member, down: Duration) -> anyhow::Result<()> {
        sleep(down).await;
        self.fleet.start_ready(member).await?;
        self.fleet.timeline.note(format!("{} is back", member.name()));
        Ok(())
    }

    fn died(
        &mut self,
        victim: Victim,
        relay_of: Option<Member>,
        name: &str,
        how: How,
        rows: Option<i64>,
    ) {
        let role = relay_of.map_or(String::new(), |_| " as the relay".to_owned());
        let at = match how {
            How::AtOnce => String::new(),
            How::At(point) => format!(" at {point}"),
        };
        let rows = rows.map_or("unknown".to_owned(), |rows| rows.to_string());
        let answered = *self.answered.borrow();
        self.fleet.timeline.note(format!(
            "SIGKILL to {name}{role}{at}: {answered} orders answered, rows in the outbox: {rows}"
        ));
        self.deaths.push(Death { victim, relay_of });
    }

    /// Rows in the outbox just before a death, for the account alone.
    async fn outbox(&self) -> Option<i64> {
        look::outbox(&mut self.fleet.connect().await.ok()?).await.ok()
    }
}
