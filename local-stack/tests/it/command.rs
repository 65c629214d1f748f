//! `up`, `status`, `env`, `down`.

use crate::client::{Down, local_stack, number, said, seen, topics};

#[test]
fn up_leaves_the_servers_in_the_background_until_down() {
    let _down = Down("it-up");
    let name = ["--name", "it-up"];
    let free_ports = ["--kafka-port", "0", "--postgres-port", "0"];
    let (code, message) = said(local_stack().arg("up").args(name).args(free_ports));
    assert_eq!(code, Some(0), "{message}");
    assert!(message.contains("cargo stack down --name it-up"), "{message}");

    let stack = seen("it-up").unwrap();
    topics(&stack.bootstrap_servers);
    assert_eq!(number(&stack.database_url, "SELECT 1::bigint"), 1);

    let (code, message) = said(local_stack().arg("up").args(name));
    assert_eq!(code, Some(0), "{message}");
    assert!(message.contains("already up"), "{message}");

    // Another stack's start cleans up after the dead, not after those in the background.
    drop(local_stack::Stack::start(local_stack::Options::private("beside")).unwrap());
    assert!(seen("it-up").is_some());

    let output = local_stack().arg("env").args(name).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.contains(&format!("export DATABASE_URL='{}'\n", stack.database_url)), "{lines}");

    let output = local_stack().args(["status", "-o", "json"]).args(name).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["state"], "up");
    assert_eq!(status["bootstrap_servers"], stack.bootstrap_servers);

    assert_eq!(said(local_stack().arg("down").args(name)).0, Some(0));
    assert!(seen("it-up").is_none());
    assert!(stack.folder.is_dir(), "the data is kept");
    let (code, message) = said(local_stack().arg("down").args(name));
    assert_eq!(code, Some(1));
    assert!(message.contains("no stack `it-up` is up"), "{message}");
    let (code, message) = said(local_stack().arg("env").args(name));
    assert_eq!(code, Some(1));
    assert!(message.contains("cargo stack up --name it-up"), "{message}");
    assert_eq!(said(local_stack().args(["down", "--remove-data"]).args(name)).0, Some(0));
    assert!(!stack.folder.exists());
}

#[test]
fn a_stack_that_lost_a_server_is_shown_as_broken_and_up_mends_it() {
    let _down = Down("it-broken");
    let up = || {
        let mut command = local_stack();
        command.args(["up", "--name", "it-broken", "--kafka-port", "0", "--postgres-port", "0"]);
        command
    };
    assert_eq!(said(&mut up()).0, Some(0));
    let stack = seen("it-broken").unwrap();
    let pid = stack.kafka_pid.to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    crate::client::eventually("the broker ends", || seen("it-broken").is_none());

    let output = local_stack().args(["status", "--name", "it-broken"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("not running"), "{table}");

    let (code, message) = said(&mut up());
    assert_eq!(code, Some(0), "{message}");
    assert!(seen("it-broken").is_some());
}
