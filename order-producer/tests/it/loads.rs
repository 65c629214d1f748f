//! Synthetic load and its manifest.

use std::collections::{BTreeMap, HashMap};

use order_events::{EventKind, decode};
use serde_json::Value;

use crate::kafka::Record;
use crate::{
    TempFile, assert_exit, eventually, json, json_lines, kafka, producer, run, spawn, topic,
};

fn by_place(records: Vec<Record>) -> HashMap<(i64, i64), Record> {
    records.into_iter().map(|r| ((i64::from(r.partition), r.offset), r)).collect()
}

fn place(line: &Value) -> (i64, i64) {
    (line["partition"].as_i64().unwrap(), line["offset"].as_i64().unwrap())
}

#[test]
fn the_manifest_names_every_record_of_the_log_as_what_it_is() {
    let topic = topic("load");
    let manifest = TempFile::new("manifest");
    let output = run(&[
        "load",
        "--orders",
        "2000",
        "--duplicates",
        "10",
        "--poison",
        "2",
        "--lifecycle",
        "20",
        "--customers",
        "50",
        "--seed",
        "7",
        "--manifest",
        manifest.path(),
        "--topic",
        &topic,
        "-o",
        "json",
    ]);
    assert_exit(&output, 0);
    let summary = json(&output);
    for (name, expected) in [
        ("sent", 2000),
        ("orders", 1360),
        ("status_events", 400),
        ("duplicates", 200),
        ("poison", 40),
        ("acknowledged", 2000),
        ("refused", 0),
        ("unconfirmed", 0),
        ("seed", 7),
    ] {
        assert_eq!(summary[name], expected, "{name}");
    }
    let lines = json_lines(&manifest.text());
    assert_eq!(lines.len(), 2000);
    let mut log = by_place(kafka::read(&topic));
    let mut originals: BTreeMap<String, Record> = BTreeMap::new();
    let mut repeats = Vec::new();
    for line in &lines {
        assert_eq!(line["outcome"], "acknowledged");
        let record = log.remove(&place(line)).expect("the record lies where the manifest says");
        assert_eq!(record.header("ce_id"), line["id"].as_str());
        assert_eq!(record.header("ce_type"), line["type"].as_str());
        match line["kind"].as_str().unwrap() {
            "poison" => assert!(decode(&record.view()).is_err(), "{line}"),
            kind => {
                let event = decode(&record.view()).unwrap().event;
                assert_eq!(line["order"], event.order_id().to_string());
                let id = line["id"].as_str().unwrap().to_owned();
                if kind == "duplicate" {
                    repeats.push((id, record));
                } else {
                    assert_eq!(kind, "order");
                    assert!(originals.insert(id, record).is_none(), "an id names one message");
                }
            }
        }
    }
    assert!(log.is_empty(), "the manifest misses {log:?}");
    for (id, repeat) in repeats {
        let original = &originals[&id];
        assert_eq!((&repeat.key, &repeat.value), (&original.key, &original.value));
        assert_eq!(repeat.headers, original.headers);
    }
}

#[test]
fn some_poison_carries_no_id_and_is_found_by_its_place() {
    let topic = topic("poison");
    let manifest = TempFile::new("poison");
    let output = run(&[
        "load",
        "--orders",
        "36",
        "--poison",
        "100",
        "--manifest",
        manifest.path(),
        "--topic",
        &topic,
    ]);
    assert_exit(&output, 0);
    let log = by_place(kafka::read(&topic));
    let lines = json_lines(&manifest.text());
    assert_eq!(lines.iter().filter(|line| line["id"].is_null()).count(), 2);
    let codes: std::collections::BTreeSet<_> =
        lines.iter().map(|line| decode(&log[&place(line)].view()).unwrap_err().code()).collect();
    assert!(codes.len() >= 9, "{codes:?}");
}

#[test]
fn the_same_seed_gives_the_same_payloads_apart_from_the_time_in_ids_and_timestamps() {
    // What does not depend on when it was made: the tail of the order id, customer, items.
    let essence = |record: &Record| {
        let event = decode(&record.view()).unwrap().event;
        let content = event.content().map(|c| (*c.currency(), c.items().to_vec()));
        (event.kind(), event.order_id().as_u64_pair().1, event.customer_id().clone(), content)
    };
    let load = |seed: &str| {
        let topic = topic("seed");
        let args = [
            "load",
            "--orders",
            "300",
            "--duplicates",
            "10",
            "--lifecycle",
            "20",
            "--seed",
            seed,
            "--topic",
            &topic,
        ];
        assert_exit(&run(&args), 0);
        kafka::read(&topic).iter().map(essence).collect::<Vec<_>>()
    };
    let first = load("7");
    assert_eq!(first, load("7"));
    assert_ne!(first, load("8"));
    assert!(first.iter().any(|(kind, ..)| *kind == EventKind::Paid));
}

#[test]
fn the_rate_is_kept() {
    let topic = topic("rate");
    let output =
        run(&["load", "--orders", "300", "--rate", "150", "--topic", &topic, "-o", "jsonl"]);
    assert_exit(&output, 0);
    let seconds = json(&output)["seconds"].as_f64().unwrap();
    assert!((1.9..20.0).contains(&seconds), "{seconds}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_flushes_what_was_handed_over_and_the_manifest_lists_exactly_that() {
    let topic = topic("interrupt");
    let manifest = TempFile::new("interrupt");
    let child = spawn(&mut producer(&[
        "load",
        "--orders",
        "1000000",
        "--rate",
        "3000",
        "--manifest",
        manifest.path(),
        "--topic",
        &topic,
        "-o",
        "json",
    ]));
    eventually("the first records", || kafka::count(&topic) > 1000);
    crate::signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 4);
    let summary = json(&output);
    assert_eq!(summary["sent"], summary["acknowledged"], "{summary}");
    let lines = json_lines(&manifest.text());
    let log = by_place(kafka::read(&topic));
    assert_eq!(summary["sent"], lines.len());
    assert_eq!(lines.len(), log.len());
    for line in &lines {
        assert_eq!(log[&place(line)].header("ce_id"), line["id"].as_str());
    }
    assert!(crate::stderr(&output).contains("stopped by a signal"));
}
