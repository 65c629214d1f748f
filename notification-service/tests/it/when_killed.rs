//! Killed at any moment it loses no mail, and repeats one at most, under the same `Message-ID`.

use std::collections::BTreeSet;

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::{World, placed};

/// Kills it at this point over the third of five mails, and has the rest sent; returns the mails of
/// each `Message-ID` in the order of the notifications.
fn killed_over_the_third(what: &str, point: &str) -> Vec<usize> {
    let world = World::new(what, 1);
    world.post.start();
    let notifications = placed(1, 5, "c-1");
    world.send(&notifications);
    Notifier::killed_at(&world, &format!("{point}:3"));
    Notifier::drain(&world, &EVERYBODY);
    world.assert_settled(5, 0);
    let ids = world.post.message_ids();
    let expected: Vec<String> =
        notifications.iter().map(|one| format!("<{}@tea.example>", one.id())).collect();
    assert!(ids.iter().all(|id| expected.contains(id)), "{ids:?}");
    expected.iter().map(|wanted| ids.iter().filter(|id| *id == wanted).count()).collect()
}

#[test]
fn killed_behind_the_servers_answer_it_repeats_that_mail_once_and_loses_none() {
    assert_eq!(killed_over_the_third("after_send", "notifier.after_send"), [1, 1, 2, 1, 1]);
}

#[test]
fn killed_before_its_commit_it_repeats_that_mail_once_and_loses_none() {
    assert_eq!(killed_over_the_third("before_commit", "consumer.before_commit"), [1, 1, 2, 1, 1]);
}

#[test]
fn killed_before_the_mail_or_behind_the_commit_it_repeats_and_loses_none() {
    std::thread::scope(|both| {
        for (what, point) in
            [("before_send", "notifier.before_send"), ("after_commit", "consumer.after_commit")]
        {
            both.spawn(move || assert_eq!(killed_over_the_third(what, point), [1; 5], "{point}"));
        }
    });
}

#[test]
fn each_crash_costs_one_repeat_and_the_mail_is_not_given_up() {
    let world = World::new("again", 1);
    world.post.start();
    world.send(&placed(1, 3, "c-1"));
    // At the first mail of each process, which is the same one until it is committed.
    for _ in 0..4 {
        Notifier::killed_at(&world, "notifier.after_send:1");
    }
    Notifier::drain(&world, &EVERYBODY);
    world.assert_settled(3, 0);
    let ids = world.post.message_ids();
    assert_eq!(ids.len(), 3 + 4, "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
}
