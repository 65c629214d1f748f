//! What needs no servers. The rest is `faults run` itself, in `.ci/run`.

use std::path::Path;

use idempotent_consumer::failpoint;

fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else {
            into.push_str(&std::fs::read_to_string(&path).expect("sources are text"));
        }
    }
}

#[test]
fn each_named_point_is_in_the_code_and_the_code_has_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for member in
        ["idempotent-consumer", "order-consumer", "order-producer", "notification-service"]
    {
        sources(&root.join(member).join("src"), &mut text);
    }
    let mut called: Vec<&str> =
        text.split("failpoint(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    called.sort_unstable();
    let mut listed = [
        &failpoint::CONSUMER[..],
        &failpoint::PRODUCER,
        &failpoint::PIPE,
        &failpoint::GATEWAY,
        &failpoint::NOTIFIER,
    ]
    .concat();
    listed.sort_unstable();
    assert_eq!(called, listed, "each once");
    assert!(listed.len() >= 12);
}
