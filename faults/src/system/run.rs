//! A plan from its beginning to the verdict.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::clients::Book;
use super::fleet::{Fleet, Member};
use super::kills::{Death, Killer};
use super::look;
use super::plan::{Plan, Victim};
use super::post::Post;
use super::recovery::{Recovered, Recoveries};
use super::verdict::Verdict;

/// How long all of it may take beyond the schedule of the orders.
const PATIENCE: Duration = Duration::from_mins(15);
/// Resident memory of any of the programs.
const PEAK_MIB: u64 = 256;

/// Performs a plan; returns what may not be and was. An error means that it could not be judged.
pub async fn perform(plan: &Plan, folder: &Path) -> anyhow::Result<Vec<String>> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)?;
    let post = Post::open().await.context("cannot listen for mails")?;
    let fleet = Fleet::gather(folder, post.port()).await?;
    let (_, key) = fleet.output(Member::Api, &["keys", "create", "--client", "faults"]).await?;
    let book = Book::new(plan.clone(), fleet.api_address(), format!("Bearer {}", key.trim()));
    // The consumer makes the topic that the notifier reads.
    for member in [Member::Api, Member::Consumer, Member::Notifier] {
        fleet.start_ready(member).await?;
    }
    fleet.timeline.note(plan);

    let schedule = Duration::from_secs(plan.size.orders / plan.size.rate);
    let began = Instant::now();
    let recoveries = Recoveries::default();
    let work =
        tokio::time::timeout(schedule + PATIENCE, send_and_kill(&fleet, &book, &recoveries, plan));
    let deaths = tokio::select! {
        deaths = work => deaths.context("it does not come to an end")??,
        ended = fleet.watch() => { ended?; bail!("nobody watches") }
        () = recoveries.watch(&fleet) => bail!("nobody looks"),
    };
    fleet.timeline.note(format!("all is settled after {:.0} s", began.elapsed().as_secs_f64()));

    let told = book.entries().iter().map(|entry| entry.order.told().len()).sum();
    wait_for_notifier(&fleet, told).await?;
    let audit = audit(&fleet).await?;
    let tables = look::tables(&mut fleet.connect().await?).await?;
    fleet.stop().await?;
    let cuts = deaths.iter().filter(|death| death.cuts_mails()).count();
    let mut verdict = Verdict::of(plan.size.orders, &book.entries(), &tables, &post.mails(), cuts);
    verdict.violations.extend(book.violations());
    verdict.violations.extend(fleet.violations());
    verdict.lines.push(("the auditor", audit));
    verdict.lines.push(("retries of clients", book.counts().to_string()));
    verdict.lines.push(("killed", count(&deaths)));
    verdict.lines.push(("slowest recovery", slowest(&recoveries.done())));
    verdict.lines.push(("most resident memory", format!("{} MiB", fleet.peak_mib())));
    if fleet.peak_mib() >= PEAK_MIB {
        verdict.violations.push(format!("{} MiB of resident memory", fleet.peak_mib()));
    }
    for (what, figures) in &verdict.lines {
        println!("{what:<22}{figures}");
    }
    Ok(verdict.violations)
}

/// The orders, and the deaths among them, until everything is settled.
async fn send_and_kill(
    fleet: &Fleet,
    book: &Book,
    recoveries: &Recoveries,
    plan: &Plan,
) -> anyhow::Result<Vec<Death>> {
    let answered = book.answered();
    let killer = Killer { fleet, plan, book, answered, recoveries, deaths: Vec::new() };
    let send = async {
        book.send_all().await;
        anyhow::Ok(())
    };
    let ((), deaths) = tokio::try_join!(send, killer.kill_all())?;
    recoveries.begin(fleet, "the last order").await?;
    recoveries.all_over().await;
    Ok(deaths)
}

/// Waits until nothing waits any more, mails to those without an address included. What is missing after
/// a while is for the verdict to say.
async fn wait_for_notifier(fleet: &Fleet, told: usize) -> anyhow::Result<()> {
    let told = i64::try_from(told)?;
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut connection = fleet.connect().await?;
    while Instant::now() < deadline {
        let (notified, left_over) = look::notified(&mut connection).await?;
        if notified >= told && left_over == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The auditor's word; what it finds is a violation.
async fn audit(fleet: &Fleet) -> anyhow::Result<String> {
    let arguments = ["verify", "--wait", "60s", "-o", "json"];
    let (code, text) = fleet.output(Member::Consumer, &arguments).await?;
    std::fs::write(fleet.folder.join("audit.json"), &text)?;
    let report: Value = serde_json::from_str(&text)?;
    let is_proven = code == Some(0) && report["holds"].as_bool() == Some(true);
    if !is_proven {
        for invariant in report["invariants"].as_array().into_iter().flatten() {
            if invariant["violations"].as_u64() != Some(0) {
                let (sentence, examples) = (&invariant["sentence"], &invariant["examples"]);
                fleet.violated(format!("the auditor: {sentence}: {examples}"));
            }
        }
    }
    if !is_proven && fleet.violations().is_empty() {
        fleet.violated(format!("the auditor: {}", report["verdict"]));
    }
    if report["not_provable"].as_u64() != Some(0) {
        fleet.violated(format!("not provable: {}", report["not_provable"]));
    }
    let tally = &report["tally"];
    Ok(format!(
        "{}; {} records, {} applied, {} duplicates that the relay sent again",
        report["verdict"].as_str().unwrap_or_default(),
        tally["records"],
        tally["applied"],
        tally["duplicates"]
    ))
}

fn count(deaths: &[Death]) -> String {
    let of = |victim| deaths.iter().filter(|death| death.victim == victim).count();
    let in_a = |member| deaths.iter().filter(|death| death.relay_of == Some(member)).count();
    let all: Vec<String> =
        Victim::ALL.into_iter().map(|victim| format!("{} {}", victim.name(), of(victim))).collect();
    let (api, consumer) = (in_a(Member::Api), in_a(Member::Consumer));
    format!("{}; the relay {api} times in the gateway, {consumer} in the consumer", all.join(", "))
}

fn slowest(recoveries: &[Recovered]) -> String {
    let applied = recoveries.iter().max_by(|a, b| a.applied_s.total_cmp(&b.applied_s));
    let told = recoveries.iter().max_by(|a, b| a.told_s.total_cmp(&b.told_s));
    match (applied, told) {
        (Some(applied), Some(told)) => format!(
            "applied {:.1} s after {}, told {:.1} s after {}",
            applied.applied_s, applied.what, told.told_s, told.what
        ),
        _ => "none".to_owned(),
    }
}
