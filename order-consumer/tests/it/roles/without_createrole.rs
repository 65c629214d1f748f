//! A database user that may not create roles migrates all the same, and is told what is missing.

use local_stack::{Options, Stack};

use crate::support::Place;
use crate::support::poll::wait;
use crate::support::world::World;

#[test]
fn migrate_says_what_it_left_out_and_makes_up_for_it_later() {
    // Roles are of a whole server, and that of the other tests has them.
    let stack = Stack::start(Options::private("roleless")).unwrap();
    let endpoints = Box::leak(Box::new(stack.endpoints().clone()));
    let world = World::of(Place::without_tables(endpoints, "roleless"));
    let plain = world.as_new_user();
    wait(world.sql(&format!("ALTER SCHEMA public OWNER TO {}", plain.user())));

    let ran = plain.run("migrate", &[]);
    ran.succeeded();
    for part in [
        "left out: the roles order_pipeline_producer, order_pipeline_consumer",
        "CREATE ROLE order_pipeline_auditor NOLOGIN;",
        "run `order-consumer migrate` again",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {ran:#?}");
    }
    assert_eq!(world.number("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'order_pipe%'"), 0);

    // As the advice says.
    for line in ran.stderr.lines().filter(|line| line.starts_with("  CREATE ROLE")) {
        wait(world.sql(line.trim()));
    }
    let again = plain.run("migrate", &[]);
    again.succeeded();
    assert!(!again.stderr.contains("left out"), "{again:#?}");
    let may = "SELECT count(*) FROM pg_roles
                WHERE rolname LIKE 'order_pipe%'
                  AND has_table_privilege(oid, 'processed_messages', 'SELECT')";
    assert_eq!(world.number(may), 2, "the consumer and the auditor");
}
