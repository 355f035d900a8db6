//! `mynah`: the broker and the tools around it, in one binary.
//!
//! Only wiring: configuration, registration of the protocols, start, shutdown, command line.
//! Never: decides anything about a message; an `if` about messages belongs to the broker.

mod cli;
mod config;
mod credentials;
mod memory;
mod open_files;
mod protocols;
mod run;

use std::process::ExitCode;

use clap::Parser;

// Messages are small objects made on one thread and freed on another: mimalloc is built for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
