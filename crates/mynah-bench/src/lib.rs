//! Load generator for the four protocols, and the comparison with other brokers: `mynah bench`.
//!
//! It drives any broker by address. To be cheaper than what it measures, frames are encoded once and patched, a
//! batch is one read and one write, and every message is checked in place for loss, duplicates and order.
//! Never: shares code with the broker that it measures, changes a machine's settings.

mod account;
mod amqp091;
mod amqp10;
mod amqp10_codec;
mod engine;
mod histogram;
mod mqtt;
mod options;
mod pattern;
mod payload;
mod process;
mod report;
mod stomp;
mod wire;
mod worker;

pub use options::{Pattern, Protocol, RunArgs};
pub use wire::Settle;

use clap::{Args, Subcommand};

/// `mynah bench ...`
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Drive one broker with one kind of traffic
    Run(RunArgs),
}

/// Does what the command line says and prints the figures on standard output.
///
/// # Errors
///
/// A broker that cannot be reached or misbehaves, options that make no run.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Run(args) => {
            let report = engine::run(&options::Spec::from_args(args)?)?;
            if args.json {
                report::write_out(&format!("{}\n", serde_json::to_string_pretty(&report)?))
            } else {
                report::write_out(&report.table())
            }
        }
    }
}
