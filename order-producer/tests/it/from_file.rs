//! Events from NDJSON.

use std::io::{BufRead, BufReader, Write};

use order_events::decode;

use crate::{
    TempFile, assert_exit, eventually, json, json_lines, kafka, producer, run, run_with_input,
    spawn, stderr, stdout, topic,
};

const ORDER: &str = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";

fn paid(id: &str) -> String {
    format!(
        r#"{{"type":"order.paid","id":"{id}","data":{{"order_id":"{ORDER}","customer_id":"c-17"}}}}"#
    )
}

#[test]
fn refused_lines_are_named_and_the_others_are_sent() {
    let topic = topic("file");
    let file = TempFile::new("events");
    let lines = [
        paid("m-1"),
        "not json".to_owned(),
        String::new(),
        r#"{"type":"order.lost","data":{}}"#.to_owned(),
        format!(
            r#"{{"type":"order.cancelled","data":{{"order_id":"{ORDER}","customer_id":"c 17"}}}}"#
        ),
        format!("\"{}\"", "x".repeat(2 * 1024 * 1024)),
        paid("m-7"),
    ];
    std::fs::write(&file.0, lines.join("\n")).unwrap();
    let output = run(&["send", "--file", file.path(), "--topic", &topic, "-o", "json"]);
    assert_exit(&output, 4);
    let text = stderr(&output);
    for refused in
        ["line 2 refused", "line 4 refused", "line 5 refused: /data/customer_id", "line 6 refused"]
    {
        assert!(text.contains(refused), "{refused}: {text}");
    }
    let ends = json(&output);
    let refused: Vec<_> =
        ends.as_array().unwrap().iter().filter(|e| e["outcome"] == "refused").collect();
    let codes: Vec<_> = refused.iter().map(|e| (e["line"].as_u64().unwrap(), &e["code"])).collect();
    assert_eq!(codes.len(), 4);
    assert_eq!(codes[0], (2, &"invalid_line".into()));
    assert_eq!(codes[1], (4, &"unknown_type".into()));
    assert_eq!(codes[2], (5, &"invalid_field".into()));
    assert_eq!(codes[3], (6, &"line_too_long".into()));
    let ids: Vec<_> =
        kafka::read(&topic).iter().map(|r| r.header("ce_id").unwrap().to_owned()).collect();
    assert_eq!(ids, ["m-1", "m-7"]);
}

#[test]
fn stdin_is_published_with_its_bytes_and_new_ids_where_it_has_none() {
    let topic = topic("stdin");
    let data = format!(r#"{{"order_id":"{ORDER}", "customer_id":"c-17","later":[1, 2]}}"#);
    let input = format!("{{\"type\":\"order.paid\",\"data\":{data}}}\n").repeat(2);
    let output = run_with_input(&["send", "--file", "-", "--topic", &topic], input.as_bytes());
    assert_exit(&output, 0);
    let records = kafka::read(&topic);
    assert_eq!(records.len(), 2);
    assert_ne!(records[0].header("ce_id"), records[1].header("ce_id"));
    for record in &records {
        assert_eq!(record.value.as_deref(), Some(data.as_bytes()));
        assert!(decode(&record.view()).is_ok());
        assert!(stdout(&output).contains(record.header("ce_id").unwrap()));
    }
}

#[test]
fn an_empty_file_sends_nothing_and_is_done() {
    let topic = topic("empty");
    let output = run_with_input(&["send", "--file", "-", "--topic", &topic, "-o", "json"], b"");
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "[]\n");
}

#[test]
fn a_file_that_cannot_be_read_fails_by_name() {
    let output = run(&["send", "--file", "no-such-file.ndjson"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("no-such-file.ndjson"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn lines_of_an_open_pipe_are_acknowledged_as_they_come_and_a_signal_ends_with_4() {
    let topic = topic("pipe");
    let mut child =
        spawn(&mut producer(&["send", "--file", "-", "--topic", &topic, "-o", "jsonl"]));
    let mut stdin = child.stdin.take().unwrap();
    let mut ends = BufReader::new(child.stdout.take().unwrap()).lines();
    for id in ["m-1", "m-2"] {
        writeln!(stdin, "{}", paid(id)).unwrap();
        let end = &json_lines(&ends.next().unwrap().unwrap())[0];
        assert_eq!((&end["message_id"], &end["outcome"]), (&id.into(), &"acknowledged".into()));
    }
    crate::signal(&child, "-TERM");
    let mut status = None;
    eventually("the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(4));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_stops_neither_publishing_nor_reporting() {
    let topic = topic("closed");
    let mut command = producer(&["send", "--file", "-", "--topic", &topic]);
    let mut child = spawn(&mut command);
    drop(child.stdout.take());
    drop(child.stderr.take());
    let mut stdin = child.stdin.take().unwrap();
    for number in 0..500 {
        writeln!(stdin, "{}", paid(&format!("m-{number}"))).unwrap();
    }
    writeln!(stdin, "not json").unwrap();
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_eq!(kafka::count(&topic), 500);
}
