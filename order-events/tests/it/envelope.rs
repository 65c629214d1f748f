//! Where the attributes stand: binary and structured mode, content types, versions.

use order_events::{RecordView, decode, decode_raw, event_type};

use crate::{ORDER_ID, Record, placed, status_event};

fn structured_paid() -> String {
    format!(
        r#"{{"data":{{"order_id":"{ORDER_ID}","customer_id":"c-17"}},"specversion":"1.0","id":"m-1","source":"/shop","type":"order.paid","subject":null,"extension":{{"a":[1]}}}}"#
    )
}

#[test]
fn header_names_count_without_regard_to_case() {
    let mut record = placed().with_header("Content-Type", "APPLICATION/JSON; charset=utf-8");
    record.headers[0].0 = "CE_Type".to_owned();
    let record = record.with_header("Ce_Id", "m-1").with_header("CE_SOURCE", "/shop");
    let decoded = record.decode().unwrap();
    assert_eq!(decoded.id.as_deref(), Some("m-1"));
    assert_eq!(decoded.source.as_deref(), Some("/shop"));
}

#[test]
fn of_headers_with_one_name_the_last_counts() {
    let record = placed().with_header("ce_type", "order.lost");
    assert_eq!(record.error().code(), "unknown_type");
    assert_eq!(event_type(&record.view()).as_deref(), Some("order.lost"));
}

#[test]
fn a_structured_event_is_read_whatever_the_order_of_its_fields() {
    let record = Record::structured(structured_paid());
    let decoded = record.decode().unwrap();
    assert_eq!(decoded.event, status_event("order.paid", "null").decode().unwrap().event);
    assert_eq!(decoded.id.as_deref(), Some("m-1"));
    assert_eq!(decoded.source.as_deref(), Some("/shop"));
    assert_eq!(event_type(&record.view()).as_deref(), Some("order.paid"));
}

#[test]
fn errors_of_a_structured_event_point_into_data() {
    let missing = structured_paid().replace("customer_id", "x");
    let error = Record::structured(missing).error();
    assert_eq!(error.to_string(), "/data/customer_id is missing; the event type requires it");
    let error = Record::structured(structured_paid().replace("\"m-1\"", "7")).error();
    assert_eq!((error.code(), error.to_string().starts_with("/id:")), ("invalid_field", true));
    let twice = structured_paid().replace("\"id\":", "\"type\":\"order.paid\",\"id\":");
    assert_eq!(Record::structured(twice).error().code(), "invalid_field");
}

#[test]
fn a_structured_event_needs_type_and_data() {
    let code = |value: &str| Record::structured(value).error().code();
    assert_eq!(code("{}"), "missing_type");
    assert_eq!(code(r#"{"type":"order.lost"}"#), "unknown_type");
    assert_eq!(code(r#"{"type":"order.paid"}"#), "missing_field");
    assert_eq!(code(r#"{"type":"order.paid","data":null}"#), "invalid_field");
    assert_eq!(code(r#"{"type":"order.paid","data":"{}"}"#), "invalid_field");
    assert_eq!(code(r#"{"type":"order.paid","data_base64":"e30="}"#), "invalid_field");
    assert_eq!(code(r#"{"type":"order.paid","data":{}"#), "invalid_json");
    assert_eq!(
        code(r#"{"type":"order.paid","datacontenttype":"text/xml","data":{}}"#),
        "unsupported_content_type"
    );
    let deep = format!(r#"{{"type":"order.paid","data":{}"#, "[".repeat(100_000));
    assert_eq!(code(&deep), "invalid_json");
}

#[test]
fn a_content_type_without_json_is_refused_and_an_absent_one_is_json() {
    for content_type in ["text/plain", "application/avro", "", "application/cloudevents-batch+json"]
    {
        let error = placed().with_header("content-type", content_type).error();
        assert_eq!(error.code(), "unsupported_content_type", "{content_type}");
    }
    for content_type in ["application/json", "text/json", "application/vnd.orders+json ; v=1"] {
        assert!(placed().with_header("content-type", content_type).decode().is_ok());
    }
    assert!(placed().decode().is_ok());
}

#[test]
fn other_versions_of_cloudevents_or_of_the_payload_are_refused() {
    let error = placed().with_header("ce_specversion", "0.3").error();
    assert_eq!(error.code(), "unsupported_version");
    let error = placed().with_header("ce_dataschema", "urn:order-events:order.placed:2").error();
    assert_eq!(error.code(), "unsupported_version");
    let foreign = placed().with_header("ce_dataschema", "https://shop.example/order.json");
    assert!(foreign.decode().is_ok());
}

#[test]
fn the_type_can_be_told_of_a_record_that_is_poison_otherwise() {
    let mut record = placed().with_header("content-type", "text/plain");
    record.value = None;
    assert_eq!(event_type(&record.view()).as_deref(), Some("order.placed"));
    record.headers.clear();
    assert_eq!(event_type(&record.view()), None);
}

#[test]
fn headers_may_be_null_and_their_names_any_bytes() {
    struct Odd;
    impl order_events::Headers for Odd {
        fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) {
            visit(b"ce_type", Some(b"order.placed"));
            visit(b"ce_id", None);
            visit(b"\xff", Some(b"a name that is not text"));
        }
    }
    let record = placed();
    let view = RecordView { headers: &Odd, ..record.view() };
    assert_eq!(decode(&view).unwrap().id, None);
}

#[test]
fn a_raw_event_needs_no_record_around_it_and_keeps_the_bytes_of_its_data() {
    let value = structured_paid();
    let raw = decode_raw(Some(value.as_bytes())).unwrap();
    assert_eq!(raw.event, Record::structured(value.as_str()).decode().unwrap().event);
    assert_eq!((raw.id.as_deref(), raw.source.as_deref()), (Some("m-1"), Some("/shop")));
    let data = format!(r#"{{ "order_id":"{ORDER_ID}","customer_id":"c-17", "later":[1]}}"#);
    let value = format!(r#"{{"type":"order.paid","data":{data}}}"#);
    let raw = decode_raw(Some(value.as_bytes())).unwrap();
    assert_eq!((raw.data, raw.id), (data.as_bytes(), None));
    for (id, code) in
        [("\"\"", "limit_exceeded"), ("\"a\\u0001\"", "invalid_field"), ("7", "invalid_field")]
    {
        let value = format!(r#"{{"type":"order.paid","id":{id},"data":{data}}}"#);
        assert_eq!(decode_raw(Some(value.as_bytes())).unwrap_err().code(), code, "{id}");
    }
    assert_eq!(decode_raw(None).unwrap_err().code(), "tombstone");
    assert_eq!(decode_raw(Some(b"{\"data\":{}}")).unwrap_err().code(), "missing_type");
}
