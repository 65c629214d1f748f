//! What clients were answered and what mails came, against what there is. Pure.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use order_events::Status;

use super::clients::Entry;
use super::fleet::MAILS_AT_ONCE;
use super::look::Tables;
use super::orders::number_of;
use super::post::Mail;

/// How many of each kind of violation are told.
const EXAMPLES: usize = 3;

/// What has been found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// For people: what was looked at, and its figures.
    pub(super) lines: Vec<(&'static str, String)>,
    pub(super) violations: Vec<String>,
}

impl Verdict {
    /// Everything of a run. `asked` is how many orders the clients had to send, `cuts` how many deaths
    /// can have come between mails and their commits.
    pub(super) fn of(
        asked: u64,
        book: &[Entry],
        tables: &Tables,
        mails: &[Mail],
        cuts: usize,
    ) -> Self {
        let mut verdict = Self::default();
        verdict.orders(asked, book, tables);
        verdict.totals(book, tables);
        verdict.events(book, tables);
        verdict.mails(book, tables, mails, cuts);
        verdict.dead_letters(book, tables);
        verdict
    }

    fn say(&mut self, what: &'static str, figures: String) {
        self.lines.push((what, figures));
    }

    /// These may not be.
    fn none_of(&mut self, what: &str, found: &[String]) {
        if !found.is_empty() {
            let examples = found[..found.len().min(EXAMPLES)].join("; ");
            self.violations.push(format!("{} {what}: {examples}", found.len()));
        }
    }

    /// Each order that was answered is there, under its id, and nothing else is.
    fn orders(&mut self, asked: u64, book: &[Entry], tables: &Tables) {
        let mut rows: HashMap<u64, Vec<&str>> = HashMap::new();
        let mut of_nobody = Vec::new();
        let answered: HashSet<u64> = book.iter().map(|entry| entry.order.number).collect();
        for row in &tables.orders {
            let number = row.sku.as_deref().and_then(number_of);
            match number.filter(|number| answered.contains(number)) {
                Some(number) => rows.entry(number).or_default().push(&row.order_id),
                None => of_nobody.push(row.order_id.clone()),
            }
        }
        let (mut absent, mut twice, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for entry in book {
            let (number, id) = (entry.order.number, &entry.order_id);
            match rows.get(&number).map(Vec::as_slice) {
                None => absent.push(format!("order {number}, {id}")),
                Some([there]) if there == id => {}
                Some([there]) => elsewhere.push(format!("order {number}, {id}, is {there}")),
                Some(there) => twice.push(format!("order {number}: {}", there.join(" and "))),
            }
        }
        self.say("orders answered 201", format!("{} of {asked}", answered.len()));
        self.say(
            "orders in the table",
            format!(
                "{}: {} absent, {} twice, {} under another id, {} that nobody sent",
                tables.orders.len(),
                absent.len(),
                twice.len(),
                elsewhere.len(),
                of_nobody.len()
            ),
        );
        let missing = asked.saturating_sub(answered.len() as u64);
        if missing > 0 {
            self.violations.push(format!("{missing} orders were never answered"));
        }
        self.none_of("orders were answered 201 and are absent", &absent);
        self.none_of("orders are there more than once", &twice);
        self.none_of("orders have another id than was answered", &elsewhere);
        self.none_of("orders are there that no client was answered for", &of_nobody);
    }

    /// Each order and each customer's sum is what the clients' requests come to.
    fn totals(&mut self, book: &[Entry], tables: &Tables) {
        let rows: HashMap<&str, _> =
            tables.orders.iter().map(|row| (row.order_id.as_str(), row)).collect();
        let mut wrong = Vec::new();
        let mut right = 0;
        let mut sums: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        for Entry { order, order_id } in book {
            let (status, total) = (order.final_status(), order.final_total());
            if status != Status::Cancelled {
                let key = (order.customer.clone(), order.currency.to_owned());
                let sum = sums.entry(key).or_default();
                *sum = (sum.0 + 1, sum.1 + total);
            }
            let Some(row) = rows.get(order_id.as_str()) else { continue };
            let is_right = row.total_cents == total
                && row.status == status.as_str()
                && row.customer_id == order.customer
                && row.currency == order.currency;
            if is_right {
                right += 1;
            } else {
                wrong.push(format!(
                    "order {} of {}, {status} at {total} {}, is {row:?}",
                    order.number, order.customer, order.currency
                ));
            }
        }
        let keys: HashSet<_> = sums.keys().chain(tables.sums.keys()).cloned().collect();
        let mut wrong_sums: Vec<String> = keys
            .iter()
            .filter(|key| sums.get(*key) != tables.sums.get(*key))
            .map(|key| format!("{key:?}: {:?}, is {:?}", sums.get(key), tables.sums.get(key)))
            .collect();
        wrong_sums.sort();
        self.say(
            "totals to the cent",
            format!(
                "{right} of {} orders, {} of {} sums of customers",
                book.len(),
                keys.len() - wrong_sums.len(),
                keys.len()
            ),
        );
        self.none_of("orders are not what was asked for", &wrong);
        self.none_of("sums of customers are wrong", &wrong_sums);
    }

    /// What was accepted is what was asked for, and each event took effect once.
    fn events(&mut self, book: &[Entry], tables: &Tables) {
        let mut accepted: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut unsettled = Vec::new();
        for event in &tables.events {
            accepted.entry(&event.order_id).or_default().push(&event.event_type);
            if event.outcome.as_deref() != Some("applied") {
                unsettled.push(format!("{event:?}"));
            }
        }
        let wrong: Vec<String> = book
            .iter()
            .filter_map(|Entry { order, order_id }| {
                let found = accepted.get(order_id.as_str()).map(Vec::as_slice).unwrap_or_default();
                (found != order.events())
                    .then(|| format!("order {}: {found:?}, not {:?}", order.number, order.events()))
            })
            .collect();
        let asked: usize = book.iter().map(|entry| entry.order.events().len()).sum();
        self.say(
            "events",
            format!(
                "{asked} asked for, {} accepted, {} claims",
                tables.events.len(),
                tables.claims
            ),
        );
        self.none_of("orders have other events than were asked for", &wrong);
        self.none_of("accepted events were not applied", &unsettled);
        if tables.claims != i64::try_from(tables.events.len()).unwrap_or(-1) {
            let (claims, events) = (tables.claims, tables.events.len());
            self.violations.push(format!("{claims} claims for {events} accepted events"));
        }
        if tables.left_over != 0 {
            self.violations.push(format!("{} rows wait in outboxes and queues", tables.left_over));
        }
    }

    /// Of each status of each order there is a mail with one Message-ID, once, or again where a death
    /// cut it off from its commit: then each that was under way, once.
    fn mails(&mut self, book: &[Entry], tables: &Tables, mails: &[Mail], cuts: usize) {
        let mut by_told: HashMap<(&str, Status), Vec<&Mail>> = HashMap::new();
        let mut by_id: HashMap<&str, Vec<&Mail>> = HashMap::new();
        for mail in mails {
            by_told.entry((&mail.order_id, mail.status)).or_default().push(mail);
            by_id.entry(&mail.message_id).or_default().push(mail);
        }
        let event_ids: HashSet<&str> =
            tables.events.iter().map(|event| event.message_id.as_str()).collect();
        let (mut missing, mut wrong, mut unlike) = (Vec::new(), Vec::new(), Vec::new());
        let mut too_often = Vec::new();
        let (mut once, mut repeated, mut repeats, mut asked) = (0, 0, 0, 0);
        for Entry { order, order_id } in book.iter().filter(|entry| entry.order.has_address()) {
            for (status, total) in order.told() {
                asked += 1;
                let what = || format!("order {} {status}", order.number);
                let Some(found) = by_told.remove(&(order_id.as_str(), status)) else {
                    missing.push(what());
                    continue;
                };
                match found.len() {
                    1 => once += 1,
                    more => {
                        repeated += 1;
                        repeats += more - 1;
                        if more - 1 > cuts {
                            too_often.push(format!("{}: {more} times", what()));
                        }
                    }
                }
                let first = found[0];
                if found.iter().any(|mail| *mail != first) {
                    unlike.push(format!("{}: {found:?}", what()));
                }
                let is_right = first.total_cents == total
                    && first.to == format!("{}@example.com", order.customer)
                    && event_ids.contains(first.event_id.as_str());
                if !is_right {
                    wrong.push(format!("{} at {total}: {first:?}", what()));
                }
            }
        }
        let mut of_nothing: Vec<String> = by_told
            .into_values()
            .flatten()
            .map(|mail| format!("{} of {}", mail.status, mail.order_id))
            .collect();
        of_nothing.sort();
        let mut shared: Vec<String> = by_id
            .iter()
            .filter(|(_, mails)| {
                mails
                    .iter()
                    .any(|m| (&m.order_id, m.status) != (&mails[0].order_id, mails[0].status))
            })
            .map(|(id, _)| (*id).to_owned())
            .collect();
        shared.sort();
        let allowed = cuts * usize::from(MAILS_AT_ONCE);
        self.say(
            "mails",
            format!(
                "{asked} to send: {} missing, {once} came once, {repeated} came again under the \
                 same Message-ID ({repeats} repeats, of {allowed} that {cuts} deaths allow)",
                missing.len()
            ),
        );
        if repeats > allowed {
            self.violations.push(format!(
                "{repeats} repeats of mails, where {cuts} deaths with {MAILS_AT_ONCE} mails under \
                 way allow {allowed}"
            ));
        }
        self.none_of("mails came again more often than anything died", &too_often);
        self.none_of("mails are missing", &missing);
        self.none_of("mails say something wrong", &wrong);
        self.none_of("mails came again and are not the same", &unlike);
        self.none_of("mails are of nothing that happened", &of_nothing);
        self.none_of("Message-IDs are of several mails", &shared);
    }

    /// Only mails to those who cannot be written to are dead.
    fn dead_letters(&mut self, book: &[Entry], tables: &Tables) {
        let mut expected: Vec<(String, String)> = book
            .iter()
            .filter(|entry| !entry.order.has_address())
            .flat_map(|Entry { order, order_id }| {
                let told = order.told().into_iter();
                told.map(|(status, _)| (order_id.clone(), status.to_string()))
            })
            .collect();
        let mut found = tables.undeliverable.clone();
        expected.sort();
        found.sort();
        self.say(
            "dead letters",
            format!(
                "{} of orders; {} of mails, {} of them to customers without an address, where {} \
                 have to be",
                tables.dead_letters.len(),
                tables.dead_mails.len() + found.len(),
                found.len(),
                expected.len()
            ),
        );
        self.none_of("dead letters of orders", &tables.dead_letters);
        self.none_of("mails are dead that could be sent", &tables.dead_mails);
        if found != expected {
            self.violations.push(format!(
                "{} mails to customers without an address are dead, and not the {} there were",
                found.len(),
                expected.len()
            ));
        }
    }
}
