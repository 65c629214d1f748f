//! How it starts, and what it says when it does not.

use local_stack::Bouncer;

use crate::support::{World, servers};

#[test]
fn without_its_tables_it_says_to_migrate() {
    let world = World::without_tables("no_tables");
    let ran = world.run("run", &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("run `notification-service migrate` first"), "{}", ran.stderr);
}

#[test]
fn it_migrates_into_a_schema_of_its_own_and_again_without_effect() {
    let world = World::without_tables("migrated");
    assert_eq!(world.run("migrate", &[]).code, Some(0));
    let again = world.run("migrate", &[]);
    assert_eq!((again.code, again.stderr.contains("up to date")), (Some(0), true), "{again:?}");
    let elsewhere = world.number(
        "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN
             ('notifications', 'pg_catalog', 'information_schema')",
    );
    assert_eq!(elsewhere, 0);
}

#[test]
fn wrong_use_is_exit_2_and_no_secret_is_printed() {
    let world = World::without_tables("wrong_use");
    for arguments in [
        ["--smtp-url", "smtp://user:hush@mail.example"],
        ["--smtp-url", "http://user:hush@mail.example"],
        ["--recipient-template", "{customer_id}"],
        ["--from", "nobody"],
        ["--schema", "a.b"],
        ["--dlq-topic", world.topic.as_str()],
    ] {
        let ran = world.run("run", &arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
    }
}

#[track_caller]
fn assert_refused_through_a_pooler(what: &str, pool_mode: &str, why: &str) {
    let mut world = World::without_tables(what);
    let Some(bouncer) = Bouncer::start(servers(), pool_mode).unwrap() else { return };
    world.commands_go_through(&bouncer);
    for command in ["run", "migrate"] {
        let ran = world.run(command, &[]);
        assert_eq!(ran.code, Some(1), "{command}: {ran:?}");
        assert!(ran.stderr.contains(why), "{command}: {ran:?}");
    }
    assert_eq!(world.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), 0);
}

#[test]
fn a_pooler_that_lends_connections_for_a_transaction_is_refused() {
    assert_refused_through_a_pooler("lent", "transaction", "pool_mode = session");
}

#[test]
fn a_pooler_that_ignores_the_schema_is_refused_for_there_may_be_claims_of_others() {
    assert_refused_through_a_pooler("ignored", "session", "and not in notifications");
}
