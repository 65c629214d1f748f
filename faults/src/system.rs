//! The whole order system as real processes: clients send orders over HTTP and send them again until
//! they are answered, while gateway, relay, consumer, notifier, broker and database die in turn. Then
//! what the clients were answered is held against what there is.
//!
//! [`plan`] is what a seed decides, [`orders`] what is sent, [`clients`] who sends it, [`fleet`] the
//! processes, [`kills`] how they die, [`post`] where the mails go, [`verdict`] what has to hold.

mod clients;
mod fleet;
mod http;
mod kills;
mod look;
mod orders;
pub mod plan;
mod post;
mod recovery;
mod run;
mod verdict;

pub use run::perform;
