//! The real pair on a private stack, broken by a seeded plan, healed, audited.
//!
//! [`plan`] turns a seed into a plan, [`stage`] is where it takes place, [`run`] performs it.

pub mod admin;
pub mod children;
pub mod cli;
pub mod fault;
pub mod frames;
mod inject;
pub mod minimise;
pub mod plan;
pub mod proxy;
mod random;
pub mod report;
pub mod run;
pub mod scene;
pub mod stage;
pub mod system;
pub mod timeline;
mod verdict;
