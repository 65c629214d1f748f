//! An SMTP server that is encrypted, with a certificate of the test's own, and wants a login.

use std::path::PathBuf;

use local_stack::Certificate;
use openssl::pkcs12::Pkcs12;

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::{World, eventually, placed};

/// A certificate for 127.0.0.1 in two files: one with its key for the server, and one for those who are to
/// trust it.
struct Pair {
    server: PathBuf,
    trusted: PathBuf,
}

impl Pair {
    fn make(world: &World, is_expired: bool) -> Self {
        let key_store = world.post.beside(".p12");
        let (server, trusted) = (world.post.beside(".server.pem"), world.post.beside(".ca.pem"));
        Certificate { key_store: &key_store, trusted: &trusted, is_expired }.make().unwrap();
        let bytes = std::fs::read(&key_store).unwrap();
        let parsed = Pkcs12::from_der(&bytes).unwrap().parse2("secret").unwrap();
        let key = parsed.pkey.unwrap().private_key_to_pem_pkcs8().unwrap();
        let certificate = parsed.cert.unwrap().to_pem().unwrap();
        std::fs::write(&server, [key, certificate].concat()).unwrap();
        Self { server, trusted }
    }

    /// How a server begins that has the certificate and wants this login.
    fn start(&self, world: &World, starttls: &[&str]) {
        let certificate = ["--certificate", self.server.to_str().unwrap()];
        let login = ["--login", "shop:p@ss"];
        world.post.start_with(&[&certificate[..], &login, starttls].concat());
    }
}

/// Encrypted from the first byte, or by STARTTLS: options of the server, and a URL with its login.
fn both(world: &World, password: &str) -> [(&'static [&'static str], String); 2] {
    let place = world.post.place();
    [
        (&[], format!("smtps://shop:{password}@{place}")),
        (&["--starttls"], format!("smtp://shop:{password}@{place}?tls=required")),
    ]
}

#[test]
fn over_tls_and_over_starttls_it_logs_in_and_sends() {
    let world = World::new("tls", 1);
    let pair = Pair::make(&world, false);
    for (number, (starttls, url)) in (1..).zip(both(&world, "p%40ss")) {
        pair.start(&world, starttls);
        world.send(&placed(number, 1, "c-1"));
        let arguments =
            [&EVERYBODY[..], &["--smtp-url", &url, "--exit-when-idle", "300ms"]].concat();
        Notifier::trusting(&pair.trusted, &world, &arguments).ended_well();
        world.post.stop();
    }
    world.assert_settled(2, 0);
    assert_eq!(
        (world.post.mails().len(), world.post.logins()),
        (2, vec!["shop:p@ss".to_owned(); 2])
    );
}

/// A server with such a certificate is asked, in both ways, and given nothing.
fn assert_not_believed(what: &str, is_expired: bool, is_trusted: bool, why: &str) {
    let world = World::new(what, 1);
    let pair = Pair::make(&world, is_expired);
    world.send(&placed(1, 1, "c-1"));
    for (starttls, url) in both(&world, "p%40ss") {
        pair.start(&world, starttls);
        let arguments = [&EVERYBODY[..], &["--smtp-url", &url]].concat();
        let notifier = if is_trusted {
            Notifier::trusting(&pair.trusted, &world, &arguments)
        } else {
            Notifier::start(&world, &arguments)
        };
        let waiting = format!("waiting: SMTP server {}", world.post.place());
        eventually("it says what is wrong with the certificate", || {
            let log = notifier.log();
            log.contains(&waiting) && log.contains(why)
        });
        eventually("it tries again", || notifier.mails("server_away") >= 3);
        notifier.stop();
        world.post.stop();
    }
    assert_eq!((world.claims(), world.post.mails().len()), (0, 0), "{what}");
    assert_eq!(world.post.logins(), [""; 0], "{what}");
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_neither_password_nor_mail() {
    std::thread::scope(|both| {
        both.spawn(|| assert_not_believed("stranger", false, false, "self-signed certificate"));
        both.spawn(|| assert_not_believed("expired", true, true, "certificate has expired"));
    });
}

#[test]
fn a_password_that_is_refused_is_waited_out_and_never_shown() {
    let world = World::new("password", 1);
    let pair = Pair::make(&world, false);
    world.send(&placed(1, 1, "c-1"));
    pair.start(&world, &["--starttls"]);
    let [_, (_, wrong)] = both(&world, "hush");
    let arguments = [&EVERYBODY[..], &["--smtp-url", &wrong]].concat();
    let notifier = Notifier::trusting(&pair.trusted, &world, &arguments);
    // In brackets: the digits alone may as well be part of a time, or of the name of the topic.
    eventually("it says that its login is refused", || notifier.log().contains("(535): 5.7.8"));
    assert_eq!((notifier.page("/readyz").unwrap().0, world.claims()), (503, 0));
    assert!(!notifier.log().contains("hush"), "{}", notifier.log());
    notifier.stop();
    assert!(world.post.logins().contains(&"shop:hush".to_owned()));
}
