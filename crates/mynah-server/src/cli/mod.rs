//! The command line: one file per command, clap for the grammar.
//!
//! Exit codes: 0 done, 1 it did not work (with the reason on standard error), 2 the command line is wrong.
//!
//! Never: prints anything but a command's own answer on standard output.

pub(crate) mod banner;
mod bootstrap;
mod check;
mod hash_password;
mod http;
mod logging;
mod serve;
mod status;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Message broker for MQTT, STOMP, AMQP 1.0 and AMQP 0-9-1.
#[derive(Debug, Parser)]
#[command(name = "mynah", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    Serve {
        /// Configuration file; without it MYNAH_CONFIG, without that the built-in defaults (loopback only).
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the documented defaults and exit.
        #[arg(long)]
        print_defaults: bool,
    },
    /// Say what is wrong with a configuration file: file:line:column: key: what; did you mean ...?
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read a password from standard input, print its hash for auth.users[].password_hash.
    HashPassword {
        /// What SCRAM-SHA-256 stores instead of argon2id: the user can log in either way, with less protection if the file leaks.
        #[arg(long)]
        scram: bool,
    },
    /// Load any broker and measure: throughput, latency, loss, duplicates, order.
    Bench(Box<mynah_bench::BenchArgs>),
    /// Look after a data directory that no broker uses.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Copy what a running broker keeps to an empty directory of its machine; the copy is a data directory of its own.
    Backup(store::BackupArgs),
    /// Show what a running broker is doing.
    Status(status::StatusArgs),
    /// Exit 0 if the broker is ready to serve, 1 if not (container health check).
    Health(status::HealthArgs),
}

impl Cli {
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Serve { print_defaults: true, .. } => banner::print_defaults(),
            Command::Serve { config, .. } => serve::run(config.as_deref()),
            Command::Check { file } => return check::run(&file),
            Command::HashPassword { scram } => hash_password::run(scram),
            Command::Bench(args) => mynah_bench::run(&args),
            Command::Store(command) => store::run(&command),
            Command::Backup(args) => store::backup(&args),
            Command::Status(args) => status::status(&args),
            Command::Health(args) => status::health(&args),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("mynah: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// A line for the person at the terminal, on standard error.
#[allow(clippy::print_stderr, reason = "a command's own answer, before or beside logging")]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}

/// A command's answer, on standard output. A closed pipe (`| head`) is the reader's wish, not an error.
pub(crate) fn answer(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The `MYNAH_...` variables; ones that are not Unicode cannot be settings of ours.
pub(crate) fn variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("MYNAH_"))
        .collect()
}
