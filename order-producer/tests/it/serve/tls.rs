//! HTTPS, with certificates of the test's own.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVersion};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use super::client::{Answer, converse, exchange, request};
use super::server::{Place, Server, tea};
use crate::wrong_use::run;
use crate::{TempFile, eventually};

const DAY: i64 = 24 * 60 * 60;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A certificate and its key.
struct Pair {
    certificate: X509,
    key: PKey<Private>,
}

impl Pair {
    /// For 127.0.0.1, signed by itself, valid between these days from now.
    fn of_days(from: i64, until: i64) -> Self {
        Self::make("127.0.0.1", None, (from, until))
    }

    fn new() -> Self {
        Self::of_days(-1, 30)
    }

    fn make(name: &str, issuer: Option<&Self>, (from, until): (i64, i64)) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut made = X509::builder().unwrap();
        made.set_version(2).unwrap();
        made.set_subject_name(&subject).unwrap();
        made.set_issuer_name(issuer.map_or(&subject, |it| it.certificate.subject_name())).unwrap();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        made.set_not_before(&Asn1Time::from_unix(now + from * DAY).unwrap()).unwrap();
        made.set_not_after(&Asn1Time::from_unix(now + until * DAY).unwrap()).unwrap();
        made.set_pubkey(&key).unwrap();
        let extension = if name == "127.0.0.1" {
            let context = made.x509v3_context(None, None);
            SubjectAlternativeName::new().ip(name).build(&context).unwrap()
        } else {
            BasicConstraints::new().critical().ca().build().unwrap()
        };
        made.append_extension(extension).unwrap();
        made.sign(issuer.map_or(&key, |it| &it.key), MessageDigest::sha256()).unwrap();
        Self { certificate: made.build(), key }
    }

    fn certificate_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// The files of a gateway.
struct Files {
    certificate: TempFile,
    key: TempFile,
}

impl Files {
    fn of(pair: &Pair) -> Self {
        let files = Self { certificate: TempFile::new("cert"), key: TempFile::new("key") };
        files.put(&pair.certificate_pem(), &pair.key_pem());
        files
    }

    fn put(&self, certificate: &[u8], key: &[u8]) {
        fs::write(&self.certificate.0, certificate).unwrap();
        fs::write(&self.key.0, key).unwrap();
    }

    fn args(&self) -> Vec<&str> {
        vec!["--tls-cert", self.certificate.path(), "--tls-key", self.key.path()]
    }

    fn serve(&self, place: &Place, args: &[&str]) -> Server {
        Server::with(place, &[&["--no-auth"], &self.args()[..], args].concat())
    }
}

/// Shakes hands as a client that believes only this certificate, and speaks no newer TLS than this.
fn connect(
    server: &Server,
    trusted: &Pair,
    newest: SslVersion,
) -> Result<SslStream<TcpStream>, String> {
    let mut client = SslConnector::builder(SslMethod::tls_client()).unwrap();
    client.cert_store_mut().add_cert(trusted.certificate.clone()).unwrap();
    client.set_alpn_protos(b"\x02h2\x08http/1.1").unwrap();
    client.set_min_proto_version(None).unwrap();
    client.set_max_proto_version(Some(newest)).unwrap();
    // Else the client itself would be too careful for what is to be refused.
    client.set_cipher_list("DEFAULT:@SECLEVEL=0").unwrap();
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.build().connect("127.0.0.1", stream).map_err(|error| error.to_string())
}

fn get(server: &Server, trusted: &Pair, path: &str) -> Result<Answer, String> {
    let stream = connect(server, trusted, SslVersion::TLS1_3)?;
    converse(stream, &request("GET", path).bytes()).ok_or_else(|| "no answer".to_owned())
}

#[test]
fn over_tls_orders_are_placed_and_nothing_is_said_in_clear() {
    let place = Place::new("tls");
    let root = Pair::make("root", None, (-1, 30));
    let between = Pair::make("between", Some(&root), (-1, 30));
    let own = Pair::make("127.0.0.1", Some(&between), (-1, 30));
    let files = Files::of(&own);
    // The client knows the root alone, so the chain has to come too.
    files.put(&[own.certificate_pem(), between.certificate_pem()].concat(), &own.key_pem());
    let server = files.serve(&place, &[]);
    assert!(server.log().contains("orders on https://"), "{}", server.log());

    let order = request("POST", "/v1/orders").key("k").json(&tea("c-1", 1));
    let stream = connect(&server, &root, SslVersion::TLS1_3).unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]));
    let placed = converse(stream, &order.bytes()).unwrap().expect(201);
    let order = get(&server, &root, placed.header("location").unwrap()).unwrap().expect(200);
    assert_eq!(order.json()["customer_id"], "c-1");

    assert_eq!(connect(&server, &root, SslVersion::TLS1_2).unwrap().ssl().version_str(), "TLSv1.2");
    let refused = connect(&server, &root, SslVersion::TLS1_1).unwrap_err();
    assert!(refused.contains("protocol version"), "{refused}");
    assert_eq!(exchange(&server.address, &request("GET", "/livez").bytes()), None);
    get(&server, &root, "/livez").unwrap().expect(200);
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let (pair, other) = (Pair::new(), Pair::new());
    let files = Files::of(&pair);
    let (certificate, key) = (pair.certificate_pem(), pair.key_pem());
    let locked =
        pair.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret").unwrap();
    let pem = |pair: &Pair| (pair.certificate_pem(), pair.key_pem());
    let (expired, early) = (pem(&Pair::of_days(-3, -1)), pem(&Pair::of_days(1, 3)));
    let cut = &certificate[..certificate.len() / 2];
    let none: &[u8] = b"";
    for (certificate, key, file, why) in [
        (none, &key[..], &files.certificate, "has no certificate"),
        (&key, &key, &files.certificate, "has no certificate"),
        (cut, &key, &files.certificate, "certificate"),
        (&certificate, none, &files.key, "has no private key"),
        (&certificate, &certificate, &files.key, "has no private key"),
        (&certificate, &locked, &files.key, "passphrase"),
        (&certificate, &other.key_pem(), &files.key, "is not that of the first certificate"),
        (&expired.0, &expired.1, &files.certificate, "expired at"),
        (&early.0, &early.1, &files.certificate, "is not valid before"),
    ] {
        files.put(certificate, key);
        let (code, said) = run(&[&["serve"], &files.args()[..]].concat());
        assert_eq!(code, Some(2), "{why}: {said}");
        assert!(said.contains(why) && said.contains(file.path()), "{why}: {said}");
    }
    for (args, named) in [
        (["--tls-cert", files.certificate.path()], "--tls-key"),
        (["--tls-key", files.key.path()], "--tls-cert"),
    ] {
        let (code, said) = run(&[&["serve"], &args[..]].concat());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{said}");
    }
    fs::remove_file(&files.key.0).unwrap();
    let (code, said) = run(&[&["serve"], &files.args()[..]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("cannot read {}", files.key.path())), "{said}");
}

#[test]
fn on_sighup_a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let place = Place::new("tls-renewed");
    let (old, new) = (Pair::new(), Pair::new());
    let files = Files::of(&old);
    let server = files.serve(&place, &[]);
    get(&server, &old, "/livez").unwrap().expect(200);
    // Read when it is told to, and not by chance.
    files.put(&new.certificate_pem(), &new.key_pem());
    get(&server, &old, "/livez").unwrap().expect(200);

    // One file of a pair is not yet there.
    files.put(&new.certificate_pem(), &old.key_pem());
    server.signal("-HUP");
    eventually("it says that the new one is no good", || {
        let log = server.log();
        log.contains("is not that of the first certificate") && log.contains("stays in use")
    });
    get(&server, &old, "/livez").unwrap().expect(200);

    files.put(&new.certificate_pem(), &new.key_pem());
    server.signal("-HUP");
    eventually("the new one is in use", || get(&server, &new, "/livez").is_ok());
    let refused = get(&server, &old, "/livez").unwrap_err();
    assert!(refused.contains("certificate verify failed"), "{refused}");
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn a_handshake_that_never_ends_holds_up_nobody_and_is_given_up() {
    let place = Place::new("tls-silent");
    let pair = Pair::new();
    let server = Files::of(&pair).serve(&place, &["--max-connections", "3"]);
    let silent = || TcpStream::connect(&server.address).unwrap();
    let begun = Instant::now();
    let two = [silent(), silent()];
    get(&server, &pair, "/livez").unwrap().expect(200);
    // Well before the others are given up, after 10 s.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    // Now each place is taken, until then.
    let third = silent();
    get(&server, &pair, "/livez").unwrap().expect(200);
    drop((two, third));

    let _last = silent();
    let begun = Instant::now();
    assert_eq!(server.stop().0, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
