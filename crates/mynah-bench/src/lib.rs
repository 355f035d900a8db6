//! Load generator for the four protocols, and the comparison with other brokers: `mynah bench`.
//!
//! It drives any broker by address. To be cheaper than what it measures, frames are encoded once and patched, a
//! batch is one read and one write, and every message is checked in place for loss, duplicates and order.
//! Never: shares code with the broker that it measures, changes a machine's settings.

mod account;
mod amqp091;
mod amqp10;
mod amqp10_codec;
mod broker;
mod engine;
mod files;
mod histogram;
mod idle;
mod jetstream;
mod markdown;
mod mqtt;
mod options;
mod pattern;
mod payload;
mod peers;
mod process;
mod report;
mod retained;
mod rows;
mod stomp;
mod wire;
mod worker;

pub use idle::IdleArgs;
pub use options::{Pattern, Protocol, RunArgs};
pub use peers::PeersArgs;
pub use wire::Settle;

use clap::{Args, Subcommand};

use report::write_out;

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
    /// Open connections that do nothing, and see what they cost
    Idle(IdleArgs),
    /// Start Mynah and the brokers of this machine and measure them side by side
    Peers(PeersArgs),
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
            write_out(&if args.json { json(&report)? } else { report.table() })
        }
        BenchCommand::Idle(args) => {
            let report = idle::run(args)?;
            write_out(&if args.json { json(&report)? } else { report.table() })
        }
        BenchCommand::Peers(args) => peers::run(args),
    }
}

fn json(report: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(report)?))
}
