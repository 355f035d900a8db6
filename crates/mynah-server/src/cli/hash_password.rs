//! `mynah hash-password`: standard input to argon2id, or to what SCRAM-SHA-256 stores, for `auth.users[].password_hash`.
//!
//! Reads standard input and not an argument: arguments are in everybody's process list and in the shell's history.
//!
//! Never: echoes or keeps the password.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, bail};

use super::{answer, complain};
use crate::credentials;

/// Longer lines are no passwords; also the bound of what is read.
const PASSWORD_BYTES_MAX: usize = 1024;

pub(super) fn run(scram: bool) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        complain(
            "password (it will be shown while you type; for a hidden one use: read -rs P; echo \"$P\" | mynah hash-password):",
        );
    }
    let mut line = String::new();
    let limit = u64::try_from(PASSWORD_BYTES_MAX + 2).unwrap_or(u64::MAX);
    std::io::Read::take(stdin.lock(), limit).read_line(&mut line).context("cannot read the password")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("no password on standard input; try: echo 'the password' | mynah hash-password");
    }
    if password.len() > PASSWORD_BYTES_MAX {
        bail!("the password is longer than {PASSWORD_BYTES_MAX} bytes");
    }
    answer(&credentials::hash(password, scram)?);
    Ok(())
}
