//! Who may do what.

use std::process::Output;

use serde_json::{Value, json};

use super::client::{Answer, Request, request};
use super::server::{Place, Server, tea};

fn keys(place: &Place, args: &[&str]) -> Output {
    place.command(&[&["keys"], args].concat()).output().unwrap()
}

#[track_caller]
fn create(place: &Place, args: &[&str]) -> Value {
    let output = keys(place, &[&["create", "-o", "json"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn with<'a>(request: Request<'a>, key: &Value) -> Request<'a> {
    request.header("authorization", &format!("Bearer {}", key["key"].as_str().unwrap()))
}

fn post(server: &Server, key: &Value, idempotency_key: &str, quantity: u32) -> Answer {
    let request = request("POST", "/v1/orders").key(idempotency_key).json(&tea("c", quantity));
    with(request, key).send(&server.address)
}

#[test]
fn a_key_lets_in_to_what_its_scopes_say_until_it_is_revoked() {
    let place = Place::new("keys");
    let all = create(&place, &["--client", "shop"]);
    let read = create(&place, &["--client", "report", "--scope", "orders:read"]);
    let server = Server::with(&place, &[]);
    let order = post(&server, &all, "k", 1).expect(201).json();
    let path = format!("/v1/orders/{}", order["order_id"].as_str().unwrap());
    with(request("GET", &path), &read).send(&server.address).expect(200);
    post(&server, &read, "k", 1).problem(403, "missing_scope");
    with(request("DELETE", &path), &read).send(&server.address).problem(403, "missing_scope");
    let refused = server.get(&path);
    assert!(refused.header("www-authenticate").is_some_and(|s| s.starts_with("Bearer")));
    refused.problem(401, "unauthorized");
    let mut forged = all.clone();
    forged["key"] = json!(all["key"].as_str().unwrap().replace("opk_", "opk_0"));
    with(request("GET", &path), &forged).send(&server.address).problem(401, "unauthorized");
    let id = all["key_id"].as_str().unwrap();
    forged["key"] = json!(format!("opk_{id}_{}", "A".repeat(43)));
    with(request("GET", &path), &forged).send(&server.address).problem(401, "unauthorized");
    assert_eq!(keys(&place, &["revoke", id]).status.code(), Some(0));
    post(&server, &all, "k", 1).problem(401, "unauthorized");
    assert_eq!(keys(&place, &["revoke", id]).status.code(), Some(1));
    server.get("/livez").expect(200);
}

#[test]
fn idempotency_keys_belong_to_the_client_whichever_api_key_it_uses() {
    let place = Place::new("scopes");
    let [old, new] = ["shop", "shop"].map(|client| create(&place, &["--client", client]));
    let other = create(&place, &["--client", "market"]);
    let server = Server::with(&place, &[]);
    let first = post(&server, &old, "k", 1).expect(201);
    assert_eq!(post(&server, &new, "k", 1).expect(201).body, first.body);
    let others = post(&server, &other, "k", 2).expect(201);
    assert_ne!(others.body, first.body);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 2);
}

#[test]
fn a_secret_is_shown_once_and_never_stored() {
    let place = Place::new("secret");
    let key = create(&place, &["--client", "shop"]);
    let secret = key["key"].as_str().unwrap().splitn(3, '_').nth(2).unwrap();
    assert_eq!(secret.len(), 43);
    let listed = keys(&place, &["list", "-o", "json"]);
    assert_eq!(listed.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&listed.stdout).contains(secret));
    let rows: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(rows[0]["client"], "shop");
    let kept = format!("SELECT count(*) FROM api_keys WHERE api_keys::text LIKE '%{secret}%'");
    assert_eq!(place.number(&kept), 0);
    let hashed = format!("SELECT count(*) FROM api_keys WHERE secret_sha256 = sha256('{secret}')");
    assert_eq!(place.number(&hashed), 1);
}

#[test]
fn without_keys_only_this_machine_may_be_listened_to() {
    let place = Place::new("open");
    let output = place.command(&["serve", "--no-auth", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-auth"));
}
