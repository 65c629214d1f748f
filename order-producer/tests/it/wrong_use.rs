//! What the command line refuses before it talks to anybody: exit code 2.

use std::process::Command;

/// Without a broker: none is needed.
pub(crate) fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_order-producer"))
        .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .args(args)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_wrong_command_line_exits_2_and_names_what_is_wrong() {
    let order = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";
    let send = |more: &'static [&'static str]| {
        [&["send", "--customer", "c-17", "--item", "TEA-1:2:450"][..], more].concat()
    };
    let too_many = [&["send", "--customer", "c"][..], &["--item", "A:1:1"].repeat(101)].concat();
    for (args, named) in [
        (vec![], "Usage"),
        (vec!["sell"], "sell"),
        (vec!["send"], "--customer"),
        (vec!["send", "--customer", "c-17"], "--item"),
        (vec!["send", "--customer", "c-17", "--item", "TEA-1"], "SKU:QUANTITY:CENTS"),
        (vec!["send", "--customer", "c-17", "--item", "TEA-1:0:450"], "1 to 10000"),
        (vec!["send", "--customer", "c 17", "--item", "TEA-1:1:450"], "visible ASCII"),
        (send(&["--currency", "EURO"]), "ISO 4217"),
        (send(&["--order-id", "17"]), "--order-id"),
        (send(&["--repeat", "0"]), "--repeat"),
        (send(&["--message-id", ""]), "--message-id"),
        (send(&["--placed-at", "today"]), "RFC 3339"),
        (send(&["--delivery-timeout", "soon"]), "500ms"),
        (send(&["--file", "x"]), "--file"),
        (send(&["--atomic"]), "--atomic is for the lines of a --file"),
        (vec!["send", "--file", "x", "--atomic", "--transaction-timeout", "10ms"], "at least 1s"),
        (vec!["pay", order, "--customer", "c", "--atomic"], "--atomic"),
        (send(&["-X", "acks=0"]), "acks"),
        (send(&["-X", "no.such.property=1"]), "no.such.property"),
        (send(&["-o", "xml"]), "xml"),
        (too_many, "more than 100"),
        (vec!["pay", order], "--customer"),
        (vec!["pay", "17", "--customer", "c"], "ORDER_ID"),
        (vec!["cancel", order, "--customer", "c", "--reason", ""], "--reason"),
        (vec!["serve", "--cors-origin", "shop.example"], "a scheme and a host"),
        (vec!["serve", "--cors-origin", "https://shop.example/"], "without a path"),
        (vec!["serve", "--cors-origin", "https://a.example,*"], "leave out"),
        (vec!["serve", "--no-auth", "--cors-origin", "*"], "name the origins"),
        (vec!["load"], "--orders"),
        (vec!["load", "--orders", "0"], "--orders"),
        (vec!["load", "--orders", "10", "--poison", "101"], "percentage"),
        (vec!["load", "--orders", "10", "--poison", "60", "--duplicates", "60"], "100 percent"),
        (vec!["load", "--orders", "10", "--duplicates", "100"], "need orders"),
    ] {
        let (code, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{args:?} does not name {named}: {stderr}");
    }
}

#[test]
fn a_secret_property_is_never_printed() {
    let secret = "hunter2-and-more";
    for property in [format!("sasl.password={secret}"), format!("sasl.pasword={secret}")] {
        let (code, stderr) = run(&[
            "send",
            "--customer",
            "c",
            "--item",
            "A:1:1",
            "-X",
            &property,
            "--delivery-timeout",
            "100ms",
        ]);
        assert!(matches!(code, Some(2 | 4)), "{code:?}");
        assert!(!stderr.contains(secret), "{stderr}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["send", "--help"], &["load", "--help"], &["--version"]] {
        assert_eq!(run(args), (Some(0), String::new()), "{args:?}");
    }
}
