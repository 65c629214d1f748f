//! The program as a whole, on servers of its own.

use std::process::{Command, Output};

fn strategies(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strategies"));
    command.args(arguments).output().expect("the program starts")
}

#[test]
fn a_small_comparison_is_as_expected() {
    let only = "naive-offset-after,check-then-insert,unique-claim,upsert,offset-in-database";
    let output = strategies(&[
        "compare",
        "--orders",
        "60",
        "--only",
        only,
        "--fault",
        "duplicates,crash,frozen,rebalance",
        "--output",
        "json",
    ]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["as_expected"], true);
    assert_eq!(report["cells"].as_array().map(Vec::len), Some(20));
    for cell in report["cells"].as_array().into_iter().flatten() {
        let is_ours = cell["strategy"] == "unique-claim";
        let verdict = cell["outcome"]["ran"].as_object().expect("it ran");
        let is_safe = verdict.values().all(|wrong| wrong == false);
        assert!(is_safe || !is_ours, "{cell}");
    }
}

#[test]
fn an_unknown_strategy_is_wrong_use() {
    assert_eq!(strategies(&["compare", "--only", "hope"]).status.code(), Some(2));
    assert_eq!(strategies(&["compare", "--orders", "1"]).status.code(), Some(2));
}
