//! Clients that send each request, with the same key, until it is answered, and keep the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::http::{Answer, Connection, Failure, Request};
use super::orders::{Again, Course, Order};
use super::plan::Plan;
use crate::random::Random;

/// How long a client waits for an answer before it asks again.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a request may go without an answer however often it is sent.
const PATIENCE: Duration = Duration::from_mins(3);
/// How many times slower orders go that the plan has not come to yet.
const SLOWER: u64 = 20;
/// A client that is told when to come again comes then, but not later than this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// An order that was answered, with everything that was asked for it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) order: Order,
    pub(super) order_id: String,
}

/// What the clients know, all together.
pub(super) struct Book {
    plan: Plan,
    address: String,
    authorization: String,
    next: AtomicU64,
    /// How many orders may go at full rate; more go one by one, so that there is work at each death.
    allowed: watch::Sender<u64>,
    one_by_one: tokio::sync::Mutex<()>,
    answered: watch::Sender<u64>,
    entries: Mutex<Vec<Entry>>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<Counts>,
}

/// What it took.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    requests: u64,
    /// Requests that were sent more than once because they had no answer.
    sent_again: u64,
    /// By what stood in the way.
    retries: BTreeMap<String, u64>,
    /// Answers that the gateway had given before.
    replayed: u64,
    longest: Duration,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, sent_again, retries, replayed, longest } = self;
        let all: u64 = retries.values().sum();
        write!(f, "{all} for {sent_again} of {requests} requests")?;
        let causes: Vec<String> =
            retries.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        if !causes.is_empty() {
            write!(f, " ({})", causes.join(", "))?;
        }
        let longest = longest.as_secs_f64();
        write!(f, "; {replayed} answers replayed; longest wait {longest:.1} s")
    }
}

impl Book {
    pub(super) fn new(plan: Plan, address: String, authorization: String) -> Self {
        Self {
            plan,
            address,
            authorization,
            next: AtomicU64::new(0),
            allowed: watch::Sender::new(0),
            one_by_one: tokio::sync::Mutex::default(),
            answered: watch::Sender::new(0),
            entries: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// So many orders may go at full rate from now on.
    pub(super) fn allow(&self, orders: u64) {
        self.allowed.send_replace(orders);
    }

    /// Waits until this order may go.
    async fn turn_of(&self, number: u64, began: Instant) {
        let rate = self.plan.size.rate;
        sleep(Duration::from_millis(number * 1_000 / rate).saturating_sub(began.elapsed())).await;
        let _turn = self.one_by_one.lock().await;
        let mut allowed = self.allowed.subscribe();
        tokio::select! {
            // It cannot be closed: we have it.
            _ = allowed.wait_for(|allowed| number < *allowed) => {}
            () = sleep(Duration::from_millis(1_000 * SLOWER / rate)) => {}
        }
    }

    /// How many orders are answered.
    pub(super) fn answered(&self) -> watch::Receiver<u64> {
        self.answered.subscribe()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn count(&self, note: impl FnOnce(&mut Counts)) {
        note(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All orders, by all clients.
    pub(super) async fn send_all(&self) {
        let began = Instant::now();
        let clients = (0..self.plan.size.clients).map(|client| self.send_some(client, began));
        futures_util::future::join_all(clients).await;
    }

    /// One client, order after order.
    async fn send_some(&self, client: u64, began: Instant) {
        let mut hand = Hand {
            book: self,
            connection: Connection::to(&self.address, &self.authorization),
            random: Random::new(self.plan.seed, 1_000_000_000 + client),
        };
        loop {
            let number = self.next.fetch_add(1, SeqCst);
            if number >= self.plan.size.orders {
                return;
            }
            self.turn_of(number, began).await;
            let order = Order::of(self.plan.seed, number);
            if let Err(what) = hand.go_through(&order).await {
                self.violated(format!("order {number}: {what}"));
            }
        }
    }
}

/// One client at work.
struct Hand<'a> {
    book: &'a Book,
    connection: Connection<'a>,
    random: Random,
}

impl Hand<'_> {
    /// Places an order and does with it what it is meant for. The error is a violation.
    async fn go_through(&mut self, order: &Order) -> Result<(), String> {
        let place = Request {
            method: "POST",
            path: "/v1/orders".to_owned(),
            key: Some(format!("place-{}", order.number)),
            body: Some(order.placing().to_string().into_bytes()),
        };
        let answer = match order.again {
            Again::AtOnce => {
                let mut second = Hand {
                    book: self.book,
                    connection: Connection::to(&self.book.address, &self.book.authorization),
                    random: self.random.clone(),
                };
                let both = tokio::join!(self.answer(&place), second.answer(&place));
                same_answer(both.0?, &both.1?)?
            }
            Again::Later | Again::No => self.answer(&place).await?,
        };
        let order_id = expect(&answer, 201).and_then(|()| id_in(&answer))?;
        self.book
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Entry { order: order.clone(), order_id: order_id.clone() });
        self.book.answered.send_modify(|answered| *answered += 1);
        self.follow_up(order, &order_id).await?;
        if order.again == Again::Later {
            let repeated = self.answer(&place).await?;
            if !repeated.is_replayed {
                return Err("its key was sent again and the answer is no replay".to_owned());
            }
            same_answer(answer, &repeated)?;
        }
        Ok(())
    }

    async fn follow_up(&mut self, order: &Order, order_id: &str) -> Result<(), String> {
        let path = format!("/v1/orders/{order_id}");
        if matches!(order.course, Course::Amended | Course::AmendedThenPaid) {
            let body = Some(order.amending().to_string().into_bytes());
            let amend = Request { method: "PUT", path: path.clone(), key: None, body };
            expect(&self.answer(&amend).await?, 200)?;
        }
        if matches!(
            order.course,
            Course::Paid | Course::AmendedThenPaid | Course::PaidThenCancelled
        ) {
            let key = Some(format!("pay-{}", order.number));
            let pay = Request { method: "POST", path: format!("{path}/pay"), key, body: None };
            expect(&self.answer(&pay).await?, 202)?;
        }
        if matches!(order.course, Course::Cancelled | Course::PaidThenCancelled) {
            let cancel = Request { method: "DELETE", path, key: None, body: None };
            // 200 where the first one was done and its answer lost.
            let answer = self.answer(&cancel).await?;
            expect(&answer, 200).or_else(|_| expect(&answer, 202))?;
        }
        Ok(())
    }

    /// Sends a request until it has an answer.
    async fn answer(&mut self, request: &Request) -> Result<Answer, String> {
        let began = Instant::now();
        let mut tries = 0_u64;
        loop {
            let asked = self.connection.ask(request, ANSWER_LIMIT).await;
            let (cause, wait) = match asked {
                Err(Failure::Refused) => ("refused".to_owned(), None),
                Err(Failure::Cut) => ("cut".to_owned(), None),
                Err(Failure::TimedOut) => ("timed out".to_owned(), None),
                Ok(answer) if is_for_now(&answer) => {
                    (answer.status.to_string(), answer.retry_after)
                }
                Ok(answer) => {
                    self.book.count(|counts| {
                        counts.requests += 1;
                        counts.sent_again += u64::from(tries > 0);
                        counts.replayed += u64::from(answer.is_replayed);
                        counts.longest = counts.longest.max(began.elapsed());
                    });
                    return Ok(answer);
                }
            };
            if cause == "500" {
                self.book.violated(format!("500 to {} {}", request.method, request.path));
            }
            self.book.count(|counts| *counts.retries.entry(cause.clone()).or_default() += 1);
            if began.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(format!("no answer for {seconds} s, in the end {cause}"));
            }
            tries += 1;
            let jitter = Duration::from_millis(self.random.between(20, 200));
            sleep(wait.unwrap_or_default().min(PAUSE_MAX) + jitter).await;
        }
    }
}

/// Whether the same request is to be sent again.
fn is_for_now(answer: &Answer) -> bool {
    match answer.status {
        429 | 500.. => true,
        // Any other 409 is an answer.
        409 => answer.body.windows(17).any(|text| text == b"request_in_flight"),
        _ => false,
    }
}

fn expect(answer: &Answer, status: u16) -> Result<(), String> {
    if answer.status == status {
        return Ok(());
    }
    Err(format!("{} instead of {status}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

fn same_answer(first: Answer, second: &Answer) -> Result<Answer, String> {
    if first.status == second.status && first.body == second.body {
        return Ok(first);
    }
    let [one, other] = [&first, second].map(|answer| String::from_utf8_lossy(&answer.body));
    Err(format!("one key had two answers: {one} and {other}"))
}

fn id_in(answer: &Answer) -> Result<String, String> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("201 with no JSON: {error}"))?;
    let id = body["order_id"].as_str().map(str::to_owned);
    id.ok_or_else(|| format!("201 without an order_id: {body}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() }
    }

    #[test]
    fn what_is_only_for_now_is_sent_again_and_what_is_an_answer_is_kept() {
        let again = [(429, ""), (500, ""), (503, ""), (409, r#"{"code":"request_in_flight"}"#)];
        for (status, body) in again {
            assert!(is_for_now(&answer(status, body)), "{status} {body}");
        }
        for (status, body) in
            [(201, "{}"), (409, r#"{"code":"wrong_status"}"#), (422, ""), (404, "")]
        {
            assert!(!is_for_now(&answer(status, body)), "{status} {body}");
        }
    }

    #[test]
    fn two_answers_to_one_key_are_no_answer() {
        assert!(same_answer(answer(201, "a"), &answer(201, "a")).is_ok());
        assert!(same_answer(answer(201, "a"), &answer(201, "b")).is_err());
        assert!(same_answer(answer(201, "a"), &answer(200, "a")).is_err());
    }
}
