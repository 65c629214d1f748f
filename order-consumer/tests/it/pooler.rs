//! PgBouncer between the programs and the database.

use std::path::Path;

use local_stack::Bouncer;

use crate::support::broken::{PATIENT, break_customer, mend_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{event, placed, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::world::{World, customer, orders};

#[test]
fn behind_a_pooler_in_session_mode_everything_works() {
    let world = World::new("bounced", 2);
    let Some(bouncer) = Bouncer::start(world.stack, "session").unwrap() else { return };
    let through = World::of(world.through(bouncer.port));
    through.run("migrate", &[]).succeeded();
    wait(break_customer(&world, &customer(3)));
    world.send(&orders(0, 60, 6));
    world.send(&[with_value(event(100, &placed(100, "c-9", 1)), b"{")]);
    let killed = Consumer::start(&through, &PATIENT);
    world.wait_consumed();
    killed.sigkill();
    wait(mend_customer(&world));
    let consumer = Consumer::start(&through, &PATIENT);
    through.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    through.run("status", &[]).succeeded();
    assert_eq!(world.claims(), 61);
    through.audit();
}

#[test]
fn a_pooler_that_lends_connections_for_a_transaction_is_refused() {
    let world = World::new("lent", 1);
    let Some(bouncer) = Bouncer::start(world.stack, "transaction").unwrap() else { return };
    let through = World::of(world.through(bouncer.port));
    for command in ["run", "migrate", "status", "verify"] {
        let ran = through.run(command, &[]);
        assert_eq!(ran.code, 1, "{command}: {ran:#?}");
        assert!(ran.stderr.contains("pool_mode = session"), "{command}: {ran:#?}");
    }
    wait(local_stack::programs::build(&["order-producer"], &[])).unwrap();
    let producer = Path::new(env!("CARGO_BIN_EXE_order-consumer")).with_file_name("order-producer");
    let served = through.command_of(&producer, "serve", &["--no-auth"]).output().unwrap();
    assert_eq!(served.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&served.stderr).contains("pool_mode = session"));
}
