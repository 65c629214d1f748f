//! Every answer that a test of the gateway gets is one that the OpenAPI document describes: its status,
//! its headers, its body with no field more, and where it is a problem its code.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::client::{Answer, NO_CONTENT};
use super::server::{Place, Server};

/// What any answer of HTTP has, and what all of the gateway's have for the browser's sake.
const OF_ALL: [&str; 11] = [
    "content-type",
    "content-length",
    "connection",
    "date",
    "cache-control",
    "x-content-type-options",
    "content-security-policy",
    "referrer-policy",
    "vary",
    "access-control-allow-origin",
    "access-control-expose-headers",
];

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = order_producer::serve::openapi(true);
        close(&mut document["components"]["schemas"]);
        document
    })
}

/// From now on an object has no fields but those that are described.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

#[track_caller]
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap();
    let document = document();
    let template = document["paths"].as_object().unwrap().keys().find(|it| is_of(path, it));
    let Some(template) = template else {
        answer.clone().problem(404, "not_found");
        return;
    };
    let operation = &document["paths"][template][method.to_ascii_lowercase()];
    if method == "OPTIONS" && answer.status == NO_CONTENT {
        return;
    }
    if operation.is_null() {
        answer.clone().problem(405, "method_not_allowed");
        assert!(answer.header("allow").is_some(), "{answer:?}");
        return;
    }
    let what = format!("{method} {template} answers {}", answer.status);
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{what}, which is not described: {answer:?}");
    let (given, described_headers) = (&answer.headers, described["headers"].as_object().unwrap());
    for (name, _) in given {
        let is_described = described_headers.keys().any(|it| it.eq_ignore_ascii_case(name));
        assert!(
            is_described || OF_ALL.contains(&name.as_str()),
            "{what} with {name}, which is not described"
        );
    }
    for (name, header) in described_headers {
        let reference = header["$ref"].as_str().unwrap().trim_start_matches('#');
        let is_missing = answer.header(name).is_none();
        let is_required = document.pointer(reference).unwrap()["required"] == true;
        assert!(!is_required || !is_missing, "{what} without {name}");
    }
    let content_type = answer.header("content-type").unwrap().split(';').next().unwrap();
    let content = &described["content"][content_type];
    assert!(content.is_object(), "{what} with {content_type}, which is not described");
    if content_type.ends_with("json") && template != "/openapi.json" {
        let place = format!("{template} {method} {} {content_type}", answer.status);
        let body = answer.json();
        if let Err(error) = valid(place, &content["schema"], &body) {
            panic!("{what} with a body that is not described: {error}\n{body:#}");
        }
    }
}

fn valid(place: String, schema: &Value, body: &Value) -> Result<(), String> {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, Validator>>> = OnceLock::new();
    let mut validators =
        VALIDATORS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let validator = validators.entry(place).or_insert_with(|| {
        let mut schema = schema.clone();
        schema["components"] = document()["components"].clone();
        jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
    });
    validator.validate(body).map_err(|error| format!("{} {error}", error.instance_path()))
}

/// Whether a path is one of a template such as `/v1/orders/{order_id}`.
fn is_of(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) =
        (path.split('/').collect(), template.split('/').collect());
    let fits = |(part, of): (&&str, &&str)| part == of || (of.starts_with('{') && !part.is_empty());
    path.len() == template.len() && path.iter().zip(&template).all(fits)
}

#[test]
fn the_document_is_served_and_the_pages_need_nothing_from_elsewhere() {
    let place = Place::new("openapi");
    let server = Server::start(&place);
    assert_eq!(
        server.get("/openapi.json").expect(200).json(),
        order_producer::serve::openapi(false)
    );
    let page = server.get("/docs").expect(200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let mut files = 0;
    for page in ["/", "/docs"] {
        let html = String::from_utf8(server.get(page).expect(200).body).unwrap();
        for quoted in html.split(['"', '\'']).skip(1).step_by(2) {
            assert!(!quoted.contains("//"), "{quoted} is elsewhere");
            if quoted.starts_with("/assets/") {
                server.get(quoted).expect(200);
                files += 1;
            }
        }
        assert!(!html.contains("<style") && !html.contains(" style="), "the policy forbids it");
    }
    assert!(files >= 6);
    server.get("/assets/nothing.js").problem(404, "not_found");
}
