//! `mynah check FILE`: everything that is wrong with a configuration, each with its place.
//!
//! The variables of the environment count too: what is checked is what `mynah serve` would use.
//!
//! Never: opens a socket or touches the data directory.

use std::path::Path;
use std::process::ExitCode;

use super::{answer, complain, variables};
use crate::config;

pub(super) fn run(file: &Path) -> ExitCode {
    match config::load(Some(file), &variables()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&format!("warning: {}", warning.line(&loaded.file)));
            }
            let config = &loaded.config;
            answer(&format!(
                "{}: good ({} listeners, {} users)",
                loaded.file,
                config.listeners.len(),
                config.auth.users.len()
            ));
            ExitCode::SUCCESS
        }
        Err(refused) => {
            refused.lines().iter().for_each(|line| complain(line));
            ExitCode::FAILURE
        }
    }
}
