//! The buttons of an elevator: what is idempotent by itself needs no claim, and no table either.
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! cargo run --example elevator
//! ```
//! Messages are `{"press": 3}` and `{"arrive": 3}`. A lit button stays lit however often it is
//! pressed, so a repeat changes nothing. The lit floors are a set in memory; after a crash they are
//! read again from the start of the log, which repeats everything. Run it twice: it prints the same.

mod support;

use std::collections::BTreeSet;

use serde::Deserialize;
use support::samples;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    Press(u8),
    Arrive(u8),
}

/// What the one who pressed sees. A repeat may be answered differently; the state is the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    LightsUp,
    WasLit,
    GoesOut,
    WasDark,
}

/// The floors to go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Panel(pub(crate) BTreeSet<u8>);

impl Panel {
    pub(crate) fn apply(&mut self, event: Event) -> Answer {
        match event {
            Event::Press(floor) if self.0.insert(floor) => Answer::LightsUp,
            Event::Press(_) => Answer::WasLit,
            Event::Arrive(floor) if self.0.remove(&floor) => Answer::GoesOut,
            Event::Arrive(_) => Answer::WasDark,
        }
    }
}

/// How often somebody pressed. The same messages, and here each repeat counts: this needs a claim,
/// as in `page_views`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presses(pub(crate) u64);

impl Presses {
    pub(crate) fn apply(&mut self, event: Event) {
        if let Event::Press(_) = event {
            self.0 += 1;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kafka = support::kafka()?;
    let topic = support::topic(&kafka, "elevator", &samples::ELEVATOR).await?;
    let (mut panel, mut presses) = (Panel::default(), Presses::default());
    let events = support::deliveries(&kafka, &topic).await?;
    for event in &events {
        let answer = panel.apply(*event);
        presses.apply(*event);
        println!("{event:?}: {answer:?}");
    }
    println!("{} deliveries, lit floors {:?}, {} presses", events.len(), panel.0, presses.0);
    Ok(())
}
