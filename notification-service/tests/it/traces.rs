//! One trace from an HTTP request to a mail: which spans a collector gets, and what they cost where it
//! takes none.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use idempotent_consumer::Headers;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::support::collector::{Collector, Taken};
use crate::support::notifier::{EVERYBODY, Notifier, order_consumer, order_producer};
use crate::support::{World, eventually, placed};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// The three programs, on one database and one Kafka.
struct Pipeline {
    topic: String,
    running: [Notifier; 3],
    /// Of the HTTP API.
    address: String,
}

impl Pipeline {
    fn start(world: &World, collector: &Collector) -> Self {
        let topic = format!("{}.orders", world.topic);
        let command_of = |program: &Path, command: &str, arguments: &[&str]| {
            let mut command = world.command_of(program, command, arguments);
            command
                .env("ORDERS_TOPIC", &topic)
                .env("ORDERS_DLQ_TOPIC", format!("{topic}.dlq"))
                .env("CONSUMER_GROUP", &topic)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
            command
        };
        let (consumer, producer) = (order_consumer(), order_producer());
        assert!(command_of(&consumer, "migrate", &[]).status().unwrap().success());
        let listen = ["--listen", "127.0.0.1:0"];
        let serve = command_of(&producer, "serve", &[&listen[..], &["--no-auth"]].concat());
        let gateway = Notifier::of(serve, &topic);
        let notify = ["--notifications-topic", &world.topic];
        let run = command_of(&consumer, "run", &[&listen[..], &notify].concat());
        let applying = Notifier::of(run, &topic);
        let mailing = Notifier::start(
            world,
            &[&EVERYBODY[..], &["--otlp-endpoint", collector.url()]].concat(),
        );
        let mut address = String::new();
        eventually("the gateway listens", || {
            let log = gateway.log();
            let listens =
                log.split_once("orders on http://").and_then(|(_, at)| at.split_once('/'));
            address = listens.map(|(address, _)| address.to_owned()).unwrap_or_default();
            !address.is_empty()
        });
        Self { topic, running: [gateway, applying, mailing], address }
    }

    /// POSTs an order; it is accepted.
    fn place(&self, key: &str, traceparent: Option<&str>) {
        let body = r#"{"customer_id":"c-17","currency":"EUR",
            "items":[{"sku":"TEA-1","quantity":2,"unit_price_cents":450}]}"#;
        let trace = traceparent.map_or(String::new(), |trace| format!("traceparent: {trace}\r\n"));
        let request = format!(
            "POST /v1/orders HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             idempotency-key: {key}\r\n{trace}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    fn stop(self) {
        self.running.into_iter().for_each(Notifier::stop_other);
    }
}

#[track_caller]
fn one<'a>(spans: &'a [Taken], name: &str) -> &'a Taken {
    let found: Vec<&Taken> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

#[test]
fn an_order_is_one_trace_from_its_request_to_its_mail() {
    let world = World::new("traced", 1);
    world.post.start();
    let collector = Collector::start();
    let pipeline = Pipeline::start(&world, &collector);
    pipeline.place("sampled", Some(&format!("00-{TRACE}-{CALLER}-01")));
    eventually("a mail", || world.post.mails().len() == 1);
    let unsampled = "0af7651916cd43dd8448eb211c80319c";
    pipeline.place("unsampled", Some(&format!("00-{unsampled}-{CALLER}-00")));
    eventually("another mail", || world.post.mails().len() == 2);
    pipeline.place("new", None);
    eventually("a third mail", || world.post.mails().len() == 3);
    let orders = pipeline.topic.clone();
    pipeline.stop();

    let spans = collector.of(TRACE);
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let request = one(&spans, "POST /v1/orders");
    let sent = one(&spans, &format!("send {orders}"));
    let applied = one(&spans, &format!("process {orders}"));
    let told = one(&spans, &format!("send {}", world.topic));
    let notified = one(&spans, &format!("process {}", world.topic));
    let mailed = one(&spans, "send mail");
    for (span, kind, parent) in [
        (request, SpanKind::Server, CALLER),
        (sent, SpanKind::Client, &request.span_id),
        (applied, SpanKind::Consumer, &request.span_id),
        (told, SpanKind::Client, &applied.span_id),
        (notified, SpanKind::Consumer, &applied.span_id),
        (mailed, SpanKind::Client, &notified.span_id),
    ] {
        assert_eq!((span.kind, span.parent.as_str()), (kind, parent), "{span:#?}");
        assert!(span.nanos.0 <= span.nanos.1 && !span.has_failed, "{span:#?}");
        for value in span.attributes.values() {
            assert!(!value.contains("c-17") && !value.contains('@'), "{span:#?}");
        }
    }
    assert_eq!(request.service, "order-producer");
    assert_eq!(applied.service, "order-consumer");
    assert_eq!(
        (&*notified.service, &*mailed.service),
        ("notification-service", "notification-service")
    );
    assert_eq!(request.says("http.route"), "/v1/orders");
    assert_eq!(request.says("http.response.status_code"), "201");

    let mails = world.post.mails();
    assert_eq!(mails[0].header("traceparent"), mailed.traceparent());
    for span in [applied, notified] {
        assert_eq!(span.says("idempotent_consumer.outcome"), "applied");
        assert_eq!(span.says("cloudevents.event_subject"), mails[0].header("x-order-id"));
        assert_eq!(span.says("messaging.system"), "kafka");
        assert_eq!(span.says("kafka.offset"), "0");
    }
    assert_eq!(applied.says("messaging.message.id"), mails[0].header("x-message-id"));
    for (sent, read) in [(sent, applied), (told, notified)] {
        for place in ["messaging.destination.name", "messaging.destination.partition.id"] {
            assert_eq!(sent.says(place), read.says(place));
        }
        assert_eq!(sent.says("kafka.offset"), read.says("kafka.offset"));
    }

    // What is not sampled leaves no span, and its mail still says to what it belongs.
    assert_eq!(mails[1].header("traceparent"), format!("00-{unsampled}-{CALLER}-00"));
    let traces = collector.traces();
    assert_eq!(traces.len(), 2, "{traces:?}");
    // Without a caller's trace the request begins one.
    let new = traces.iter().find(|trace| *trace != TRACE).unwrap();
    let spans = collector.of(new);
    assert_eq!(spans.len(), 6, "{spans:#?}");
    assert_eq!(one(&spans, "POST /v1/orders").parent, "");
    assert_eq!(mails[2].header("traceparent"), one(&spans, "send mail").traceparent());
}

/// Notifications numbered from 1, of one trace.
fn send_traced(world: &World, count: u128, traceparent: &[u8]) {
    for notification in placed(1, count, "c-1") {
        let record = notification.encode("/test");
        let mut headers: Headers = record.headers.into_iter().collect();
        headers.push("traceparent", Some(traceparent));
        world.publish(&world.topic, &record.key, &record.value, &headers);
    }
}

#[test]
fn without_the_option_there_is_no_span_and_a_mail_names_what_its_message_named() {
    let world = World::new("untraced", 1);
    world.post.start();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    send_traced(&world, 1, traceparent.as_bytes());
    Notifier::drain(&world, &EVERYBODY);
    assert_eq!(world.post.mails()[0].header("traceparent"), traceparent);
    world.assert_settled(1, 0);
}

#[test]
fn a_traceparent_that_is_none_is_no_header_of_a_mail() {
    let world = World::new("hostile", 1);
    world.post.start();
    send_traced(&world, 1, format!("00-{TRACE}-{CALLER}-01\r\nBcc: all@tea.example").as_bytes());
    Notifier::drain(&world, &EVERYBODY);
    let mails = world.post.mails();
    assert!(!mails[0].has("traceparent") && !mails[0].has("bcc"), "{mails:?}");
}

/// The commit fails, so what was applied was not; the mail had gone out by then.
#[test]
fn what_is_rolled_back_at_its_commit_is_told_as_what_becomes_of_it() {
    let world = World::new("uncommitted", 1);
    world.post.start();
    world.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'not this one'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON notifications_sent
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let collector = Collector::start();
    send_traced(&world, 1, format!("00-{TRACE}-{CALLER}-01").as_bytes());
    Notifier::drain(&world, &[&EVERYBODY[..], &["--otlp-endpoint", collector.url()]].concat());
    assert_eq!(world.dead_letters(), [("c-1".to_owned(), "sqlstate_P0001".to_owned())]);
    let spans = collector.of(TRACE);
    let processed = one(&spans, &format!("process {}", world.topic));
    assert_eq!(processed.says("idempotent_consumer.outcome"), "dead_lettered");
    assert_eq!(processed.says("error.type"), "sqlstate_P0001");
    assert!(processed.has_failed);
}

#[test]
fn a_collector_that_is_away_or_hangs_costs_spans_and_nothing_else() {
    for (what, collector, told) in [
        ("away", Collector::away(), "they are lost: "),
        ("hanging", Collector::hanging(), "those that waited are lost"),
    ] {
        let world = World::new(what, 1);
        world.post.start();
        send_traced(&world, 20, format!("00-{TRACE}-{CALLER}-01").as_bytes());
        let begun = Instant::now();
        let options = [&EVERYBODY[..], &["--otlp-endpoint", collector.url()]].concat();
        let (summary, log) = Notifier::drain_and_log(&world, &options);
        let took = begun.elapsed();
        assert_eq!(summary["applied"], 20, "{log}");
        assert_eq!(log.matches("the collector takes no spans").count(), 1, "{log}");
        assert!(log.contains(told), "{log}");
        // Three seconds for the spans at the end; the rest is what a busy machine takes for the mails.
        assert!(took < Duration::from_mins(1), "{took:?}");
        world.assert_settled(20, 0);
    }
}
