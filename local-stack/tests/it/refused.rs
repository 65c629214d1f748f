//! What keeps a stack from starting is said with what to do.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use local_stack::{Options, Stack, StackError};

use crate::client::{local_stack, said};

#[test]
fn a_busy_port_is_named_with_the_flag_that_chooses_another() {
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let (code, message) =
        said(local_stack().args(["up", "--name", "it-port", "--kafka-port", &port]));
    assert_eq!(code, Some(1));
    assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
    assert!(message.contains("--kafka-port"), "{message}");
}

#[test]
fn a_server_that_ends_while_starting_shows_the_end_of_its_log() {
    let broken = Options::private("bad-kafka").kafka_property("num.partitions", "many");
    let error = Stack::start(broken).unwrap_err();
    assert!(matches!(error, StackError::ExitedDuringStart { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("Kafka ended while starting"), "{message}");
    assert!(message.contains("num.partitions"), "{message}");

    let broken = Options::private("bad-postgres").postgres_setting("max_connections", "many");
    let message = Stack::start(broken).unwrap_err().to_string();
    assert!(message.contains("PostgreSQL ended while starting"), "{message}");
    assert!(message.contains("max_connections"), "{message}");
}

#[test]
fn a_missing_java_is_named_with_how_to_get_one() {
    let (code, message) = said(local_stack().arg("up").env("PATH", "").env_remove("JAVA_HOME"));
    assert_eq!(code, Some(1));
    assert!(message.contains("Java 17"), "{message}");
    assert!(message.contains("JAVA_HOME"), "{message}");
}

#[test]
fn an_old_java_is_named_with_its_version() {
    let home = tempfile::tempdir().unwrap();
    script(&home.path().join("bin/java"), "echo 'openjdk version \"11.0.2\" 2019' >&2");
    let (code, message) = said(local_stack().arg("up").env("JAVA_HOME", home.path()));
    assert_eq!(code, Some(1));
    assert!(message.contains("11.0.2") && message.contains("Java 17"), "{message}");
}

#[test]
fn a_missing_maven_is_named_with_how_to_get_it() {
    let home = open_folder();
    let (code, message) = said(&mut without_download(home.path(), ""));
    assert_eq!(code, Some(1));
    assert!(message.contains("there is no `mvn` in PATH"), "{message}");
}

#[test]
fn a_failed_download_shows_mavens_reason_and_can_be_tried_again() {
    let home = open_folder();
    let tools = tempfile::tempdir().unwrap();
    script(&tools.path().join("mvn"), "echo '[ERROR] Could not transfer artifact'; exit 1");
    for _ in 0..2 {
        let (code, message) =
            said(&mut without_download(home.path(), tools.path().to_str().unwrap()));
        assert_eq!(code, Some(1));
        assert!(message.contains("Could not transfer artifact"), "{message}");
        assert!(message.contains("maven.log"), "{message}");
    }
}

#[test]
fn a_folder_that_postgresql_cannot_reach_as_root_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Anyone else runs PostgreSQL under the own account, which reaches the own folders.
        return;
    }
    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), Permissions::from_mode(0o700)).unwrap();
    let home = private.path().join("home");
    let (code, message) = said(local_stack().arg("up").env("LOCAL_STACK_HOME", home));
    assert_eq!(code, Some(1));
    assert!(message.contains("closed to others"), "{message}");
}

#[test]
fn wrong_use_ends_with_exit_code_2() {
    assert_eq!(said(local_stack().args(["up", "--no-such-flag"])).0, Some(2));
    assert_eq!(said(local_stack().args(["up", "--name", "../elsewhere"])).0, Some(2));
    assert_eq!(said(local_stack().args(["up", "--kafka-property", "novalue"])).0, Some(2));
}

/// `up` in a home without a download, with a new enough Java.
fn without_download(home: &Path, path: &str) -> Command {
    let java_home = home.join("java");
    script(&java_home.join("bin/java"), "echo 'openjdk version \"21.0.1\" 2023' >&2");
    let mut command = local_stack();
    command.arg("up").env("LOCAL_STACK_HOME", home).env("JAVA_HOME", java_home).env("PATH", path);
    command
}

/// Also for the account that PostgreSQL has when we are root.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn script(path: &Path, line: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}
