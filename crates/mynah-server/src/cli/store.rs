//! `mynah store` and `mynah backup`: what is on the disk, checked, mended and copied.
//!
//! Never: touches a data directory that a broker uses.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::answer;
use super::http::{Answer, post};
use super::status::admin_address;

/// A backup may copy many gigabytes.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Read every file: magic, version, checksums. Exit code 1 if something is damaged. Changes nothing.
    Verify {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Measure the journal beside a bare loop of writing and syncing, in a directory that is removed again.
    Bench {
        /// Any directory on the disk to measure.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Keep what can be read of a damaged directory, so that it opens again; damaged files are moved aside, not deleted.
    Salvage {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// Made if it is not there; otherwise it must be empty.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Admin address of the broker; by default that of MYNAH_CONFIG, else 127.0.0.1:15672.
    #[arg(short, long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Login as user:password; from loopback the default login is tried.
    #[arg(short, long, default_value = "guest:guest", value_name = "USER:PASSWORD")]
    user: String,
}

pub(super) fn run(command: &StoreCommand) -> anyhow::Result<()> {
    let (report, dir) = match command {
        StoreCommand::Verify { dir } => (mynah_store::verify(dir), dir),
        StoreCommand::Salvage { dir } => (mynah_store::salvage(dir), dir),
        StoreCommand::Bench { dir } => {
            for measured in mynah_store::bench_journal(dir).with_context(|| dir.display().to_string())? {
                answer(&measured.to_string());
            }
            return Ok(());
        }
    };
    let report = report.with_context(|| dir.display().to_string())?;
    answer(&report.to_string());
    if report.is_sound() {
        return Ok(());
    }
    bail!("{} is damaged; `mynah store salvage` keeps what can be read", dir.display())
}

pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let dir = std::path::absolute(&args.dir).context("no such place")?;
    let text = dir.to_str().context("the directory's name is not Unicode")?;
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    let Answer { status, body } = post(
        &admin_address(args.address.as_deref()),
        "/api/v1/backup",
        &format!("{{\"dir\":\"{quoted}\"}}"),
        Some(&args.user),
        PATIENCE,
    )?;
    match status {
        200 => {
            answer(&format!("copied to {text}"));
            Ok(())
        }
        401 | 403 => bail!("the broker refuses this login; give one with --user NAME:PASSWORD"),
        _ => bail!("the broker answers with status {status}: {}", body.trim()),
    }
}
