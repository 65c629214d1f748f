//! Under the role that `migrate` makes for it.

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::{World, eventually, placed};

/// PostgreSQL's insufficient_privilege.
const DENIED: &str = "42501";

#[test]
fn it_does_all_its_work_under_its_role_and_may_do_nothing_else() {
    let mut world = World::new("role", 1);
    world.commands_as_member_of("order_pipeline_notifier");
    world.post.start();
    world.sql("INSERT INTO notification_contacts VALUES ('c-2', 'two@tea.example')");
    for (number, customer) in (1..).zip(["c-1", "refused-1", "later-1", "c-2"]) {
        world.send(&placed(number, 1, customer));
    }
    let notifier = Notifier::start(&world, &EVERYBODY);
    eventually("one waits and the others are done", || {
        world.claims() == 3 && world.number("SELECT count(*) FROM retry_queue") == 1
    });
    notifier.kill();
    world.post.open();
    // One that was killed is taken over from.
    Notifier::drain(&world, &EVERYBODY);
    world.assert_settled(3, 1);
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 0, "the dead letter is in its topic");
    for statement in [
        "UPDATE notification_contacts SET email = 'me@evil.example'",
        "SELECT FROM notifications_sent",
        "DELETE FROM notifications_sent",
        "DELETE FROM processed_messages",
        "CREATE TABLE notifications.mine ()",
    ] {
        assert_eq!(world.refusal(statement).as_deref(), Some(DENIED), "{statement}");
    }
}
