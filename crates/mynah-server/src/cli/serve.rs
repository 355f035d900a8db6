//! `mynah serve`: configuration, log, first login, then the broker until a signal ends it.
//!
//! Never: continues with a configuration that has a problem.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tracing::warn;

use super::{banner, bootstrap, complain, logging, variables};
use crate::{config, run};

pub(super) fn run(path: Option<&Path>) -> anyhow::Result<()> {
    let vars = variables();
    let named = vars.iter().find(|(name, value)| name == "MYNAH_CONFIG" && !value.is_empty());
    let path: Option<PathBuf> = path.map(Path::to_owned).or_else(|| named.map(|(_, value)| value.into()));
    let loaded = match config::load(path.as_deref(), &vars) {
        Ok(loaded) => loaded,
        Err(refused) => {
            refused.lines().iter().for_each(|line| complain(line));
            bail!("not started: the configuration has {} problem(s)", refused.errors.len());
        }
    };
    let mut config = loaded.config;
    logging::init(&config)?;
    for problem in &loaded.warnings {
        warn!(file = %loaded.file, "{}", problem.line(&loaded.file));
    }
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create data_dir {}", config.data_dir))?;
    let generated = bootstrap::ensure_login(&mut config, &vars)?;
    if let Some(made) = &generated {
        banner::print_generated(made);
    }
    if config.reaches_beyond_loopback() && config.lets_nobody_in_from_elsewhere() {
        warn!(
            "a listener is open to other machines, but no user may log in from there; add one to auth.users"
        );
    }
    run::run(&config, |config, opened| banner::print(config, opened, generated.as_ref()))
}
