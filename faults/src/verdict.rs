//! What has to hold in the end.

use anyhow::bail;
use serde_json::Value;

use crate::stage::Stage;

/// Resident memory of any of the programs.
const PEAK_KIB: u64 = 256 * 1024;

/// The auditor's word.
pub(crate) async fn audit(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut verify = stage.auditor();
    verify.args(["verify", "--wait", "60s", "-o", "json", "--manifest"]).arg(stage.manifest()?);
    let output = verify.output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    std::fs::write(stage.folder.join("audit.json"), &*text)?;
    match output.status.code() {
        Some(0 | 3) => {}
        _ => bail!("the audit failed: {}", String::from_utf8_lossy(&output.stderr)),
    }
    let report: Value = serde_json::from_str(&text)?;
    let holds = report["holds"].as_bool() == Some(true);
    if !holds || output.status.code() != Some(0) {
        for invariant in report["invariants"].as_array().into_iter().flatten() {
            if invariant["violations"].as_u64() != Some(0) {
                let (sentence, examples) = (&invariant["sentence"], &invariant["examples"]);
                stage.violated(format!("{sentence}: {examples}"));
            }
        }
        if stage.violations().is_empty() {
            stage.violated(format!("the auditor: {}", report["verdict"]));
        }
    }
    if report["not_provable"].as_u64() != Some(0) {
        stage.violated(format!("not provable: {}", report["not_provable"]));
    }
    let tally = &report["tally"];
    stage.timeline.note(format!(
        "the auditor: {}; {} records, {} applied, {} dead-lettered, {} duplicates",
        report["verdict"],
        tally["records"],
        tally["applied"],
        tally["dead_lettered"],
        tally["duplicates"]
    ));
    if tally["records"].as_u64().is_none_or(|records| records == 0) {
        bail!("nothing was sent, so nothing is proved");
    }
    Ok(())
}

/// The consumers that ran throughout are still there, end well, and took little memory.
pub(crate) async fn end_consumers(stage: &Stage<'_>) -> anyhow::Result<()> {
    let consumers = std::mem::take(&mut *stage.consumers.lock().await);
    for mut consumer in consumers {
        match consumer.try_wait() {
            Some(status) => stage.violated(format!(
                "{} ended by itself with {status}: {}",
                consumer.name,
                consumer.last_lines()
            )),
            None => stage.stop(consumer, true).await?,
        }
    }
    let peak_kib = stage.peak_kib();
    if peak_kib >= PEAK_KIB {
        stage.violated(format!("{} MiB of resident memory", peak_kib / 1024));
    }
    Ok(())
}
