//! Starts the broker from a configuration and stops it on SIGTERM or SIGINT.
//!
//! Never: looks at a message.

use crate::cli::banner::Opened;
use crate::config::Config;

pub(crate) fn run(config: Config, _ready: impl FnOnce(&Config, &Opened)) -> anyhow::Result<()> {
    anyhow::bail!("not wired: {}", config.data_dir)
}
