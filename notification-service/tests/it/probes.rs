//! What it says of itself.

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::{World, eventually, placed};

#[test]
fn its_probes_say_whether_it_works_why_not_and_what_became_of_the_mails() {
    let world = World::new("probes", 1);
    let notifier = Notifier::start(&world, &EVERYBODY);
    world.send(&placed(1, 1, "c-1"));
    let server = format!("SMTP server {}", world.post.place());
    eventually("it is not ready, and says for what it waits", || {
        notifier
            .page("/readyz")
            .is_some_and(|(status, body)| status == 503 && body.contains(&server))
    });
    assert_eq!(notifier.page("/livez"), Some((200, "alive\n".to_owned())));
    assert_eq!((notifier.mails("sent"), notifier.mails("refused")), (0, 0));
    assert!(notifier.mails("server_away") > 0);

    world.post.start();
    world.send(&placed(2, 1, "refused-1"));
    world.send(&placed(3, 1, "later-1"));
    eventually("a mail is put off", || notifier.mails("put_off") > 0);
    world.post.open();
    eventually("it has told of all", || {
        notifier.metric("idempotent_consumer_messages_total{outcome=\"applied\"}") == Some(2)
    });
    assert_eq!((notifier.mails("sent"), notifier.mails("refused")), (2, 1));
    let buckets = "notification_service_send_seconds_bucket{le=\"+Inf\"}";
    assert_eq!(notifier.metric(buckets), Some(2));
    eventually("it is ready", || notifier.page("/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(notifier.metric("idempotent_consumer_ready"), Some(1));
    notifier.stop();
    world.assert_settled(2, 1);
}
