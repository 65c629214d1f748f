//! Mails customers what became of their orders: the second application of `idempotent_consumer`, with
//! an effect that lies outside of the database.
//!
//! A mail cannot be taken back, and no transaction spans PostgreSQL and an SMTP server. So the message
//! is claimed, the mail is sent, and then the claim is committed, one message a transaction:
//!
//! * **Nothing is lost.** A message whose claim is committed was taken by the server, or is a dead
//!   letter that says why not.
//! * **A repeat is rare, and can be told.** A mail is sent again only if what comes between the
//!   server's answer and the commit fails: the process is killed there, the connection to the database
//!   is lost, or the partition is taken away and the mail takes longer than the next process waits; or
//!   if the server took the mail and its answer was lost. Each such failure costs one repeat of one mail
//!   for each partition that was in work, under the same `Message-ID`. What the brokers have to be asked
//!   is asked before the mail is sent (`EngineConfig::effects_outside`), so that their being away costs
//!   none.
//! * **A redelivered message sends nothing.** Its claim is there.
//! * **A server that is away is waited for.** It counts no attempt and dead-letters nothing. What the
//!   server refuses for good is a dead letter; what it puts off is tried again, in the order of the
//!   customer's notifications, while other customers' go on.
//!
//! While a mail is under way its claim holds the partition: another process that is given the partition
//! waits for it.

pub mod cli;
mod decoder;
mod handler;
mod mail;
mod migrate;
mod observe;
mod recipient;
mod run;
mod smtp;
