//! The first boot in a container: a login nobody else knows.
//!
//! In a container every port is reached from outside, so neither anonymous nor `guest` gets in, and a configuration without
//! a user of its own would be a broker nobody can use. One is made: `admin` with a password that is printed once; its
//! hash is kept in the data directory, so that a restart keeps the login.
//!
//! Never: keeps the password in the clear, replaces a user the operator has defined.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::config::{Config, Secret, User};
use crate::credentials;

/// Name of the generated user.
const NAME: &str = "admin";
const FILE: &str = "admin.password_hash";

/// Set (to anything but empty or 0) in our image: there is no person at this machine's loopback.
const CONTAINER: &str = "MYNAH_CONTAINER";

/// What was generated, to be printed once.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) user: &'static str,
    pub(crate) password: Secret,
}

/// Adds the generated user to `config` when one is needed. Answers the password if it was made just now.
pub(super) fn ensure_login(
    config: &mut Config,
    vars: &[(String, String)],
) -> anyhow::Result<Option<Generated>> {
    let container = vars.iter().any(|(name, value)| name == CONTAINER && !matches!(value.as_str(), "" | "0"));
    if !container || !needs_login(config) {
        return Ok(None);
    }
    let path = Path::new(&config.data_dir).join(FILE);
    if let Some(hash) = kept(&path)? {
        config.auth.users.push(user(hash));
        return Ok(None);
    }
    let password = credentials::generate()?;
    let hash = credentials::hash(&password, false)?;
    keep(&path, &hash)?;
    config.auth.users.push(user(hash));
    Ok(Some(Generated { user: NAME, password: Secret(password) }))
}

/// Somebody can come from elsewhere, and nobody is let in from elsewhere.
fn needs_login(config: &Config) -> bool {
    config.reaches_beyond_loopback() && config.lets_nobody_in_from_elsewhere()
}

fn user(hash: String) -> User {
    User {
        name: NAME.to_owned(),
        password_hash: Some(Secret(hash)),
        password: None,
        loopback_only: false,
        admin: true,
    }
}

fn kept(path: &PathBuf) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn keep(path: &PathBuf, hash: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(hash.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}; is the volume writable for this user?", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_config(dir: &Path) -> Config {
        let mut config = Config { data_dir: dir.display().to_string(), ..Config::default() };
        for listener in &mut config.listeners {
            listener.bind.0.set_ip("0.0.0.0".parse().unwrap());
        }
        config
    }

    fn vars() -> Vec<(String, String)> {
        vec![(CONTAINER.to_owned(), "1".to_owned())]
    }

    fn temporary(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mynah-bootstrap-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn first_boot_makes_a_login_and_the_second_keeps_it() {
        let dir = temporary("keep");
        let mut config = open_config(&dir);
        let made = ensure_login(&mut config, &vars()).unwrap().unwrap();
        assert_eq!(made.user, "admin");
        let hash = config.auth.users.last().unwrap().password_hash.clone().unwrap();
        assert!(!hash.0.contains(&made.password.0));
        let mut again = open_config(&dir);
        assert!(ensure_login(&mut again, &vars()).unwrap().is_none());
        assert_eq!(again.auth.users.last().unwrap().password_hash, Some(hash));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_login_is_made_outside_a_container_or_beside_an_own_user() {
        let dir = temporary("none");
        assert!(ensure_login(&mut open_config(&dir), &[]).unwrap().is_none());
        let mut own = open_config(&dir);
        own.auth.users.push(User { name: "app".into(), loopback_only: false, ..User::guest() });
        assert!(ensure_login(&mut own, &vars()).unwrap().is_none());
        let mut loopback = Config { data_dir: dir.display().to_string(), ..Config::default() };
        assert!(ensure_login(&mut loopback, &vars()).unwrap().is_none());
        fs::remove_dir_all(dir).unwrap();
    }
}
