//! How it starts, and what it says when it does not.

use crate::support::World;

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
