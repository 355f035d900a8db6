//! Users that operators make while the broker runs. They are kept, with a hash of their password only.
//!
//! A user of the configuration is changed there and nowhere else, and comes first.

use std::sync::Arc;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Argon2, PasswordHash};
use mynah_core::engine::Space;
use mynah_core::protocol::{Refusal, RefusalKind};
use serde::{Deserialize, Serialize};

use crate::access::ANONYMOUS;
use crate::broker::{Broker, Shared};
use crate::config::{Password, User};
use crate::durable::definitions::{json, key};
use crate::limits::{DEFINITION_NAME_BYTES_MAX, USERS_MAX};
use crate::operator::{Unmade, check_name};
use crate::scram::Secret;

/// A user as it is kept; the name is the key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredUser {
    password_hash: String,
    #[serde(default)]
    loopback_only: bool,
    #[serde(default)]
    admin: bool,
}

impl StoredUser {
    fn user(self, name: &str) -> User {
        let Self { password_hash, loopback_only, admin } = self;
        User { name: name.to_owned(), password: Password::Hash(password_hash), loopback_only, admin }
    }
}

/// What operators may know of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserView {
    pub name: Arc<str>,
    pub loopback_only: bool,
    pub admin: bool,
    /// From the configuration, and not to be changed here.
    pub configured: bool,
}

/// A password as operators give it.
#[derive(Debug)]
pub enum NewPassword<'a> {
    /// In the clear, to be hashed: with argon2id, or with `scram` for clients that log in by SCRAM-SHA-256.
    Clear { password: &'a str, scram: bool },
    /// As `mynah hash-password` prints it.
    Hash(&'a str),
}

impl NewPassword<'_> {
    /// Hashing takes tens of milliseconds.
    fn hash(&self) -> Result<String, Unmade> {
        match self {
            Self::Clear { password: "", .. } => Err(invalid("the password is empty")),
            Self::Clear { password, scram } => Ok(hash_password(password, *scram)?),
            Self::Hash(hash) if Secret::parse(hash).is_some() => Ok((*hash).to_owned()),
            Self::Hash(hash) => match PasswordHash::new(hash) {
                Ok(parsed) if parsed.algorithm.as_str() == "argon2id" => Ok((*hash).to_owned()),
                Ok(_) | Err(_) => Err(invalid(
                    "password_hash must be what `mynah hash-password` prints: $argon2id$... or SCRAM-SHA-256$...",
                )),
            },
        }
    }
}

fn invalid(text: &str) -> Unmade {
    Unmade::Invalid(text.to_owned())
}

/// What is kept of a password, with a fresh salt: an argon2id hash, or what SCRAM-SHA-256 stores.
///
/// # Errors
/// `Unavailable`: the operating system has no randomness.
pub fn hash_password(password: &str, scram: bool) -> Result<String, Refusal> {
    let hash = if scram {
        Secret::of_password(password.as_bytes()).ok().map(|secret| secret.store())
    } else {
        let salt = SaltString::generate(&mut OsRng);
        Argon2::default().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
    };
    let text = "no randomness from the operating system";
    hash.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, text))
}

impl Shared {
    /// # Errors
    /// `Unavailable`: nothing can be written down now.
    pub(crate) fn check_writable(&self) -> Result<(), Refusal> {
        match self.trouble() {
            None => Ok(()),
            Some(trouble) => Err(crate::batch::refusal_of(&trouble)),
        }
    }

    /// After recovery, and before anybody connects.
    pub(crate) fn restore_user(&self, name: &str, stored: StoredUser) {
        self.access.put_user(stored.user(name), || ());
    }
}

impl Broker {
    /// Makes a user or changes it; slow, it may hash. Answers whether it is new. It is safe when [`Broker::flush`] has returned.
    ///
    /// # Errors
    /// It is one of the configuration, makes no sense, there are too many, or nothing can be written.
    pub fn put_user(
        &self,
        name: &str,
        password: &NewPassword<'_>,
        loopback_only: bool,
        admin: bool,
    ) -> Result<bool, Unmade> {
        check_name("user", name, DEFINITION_NAME_BYTES_MAX)?;
        if name == ANONYMOUS || name.contains(['/', '+', '#']) {
            return Err(invalid("a user's name may not be 'anonymous' nor have '/', '+' or '#'"));
        }
        self.shared.check_writable()?;
        let access = &self.shared.access;
        if access.is_configured(name) {
            let text = format!("user '{name}' is in the configuration (auth.users): change it there");
            return Err(Refusal::new(RefusalKind::Conflict, text).into());
        }
        let (new, count) = access.is_new(name);
        if new && count >= USERS_MAX {
            let text = format!("there are {USERS_MAX} users, which is the limit: delete some");
            return Err(Refusal::new(RefusalKind::Full, text).into());
        }
        let stored = StoredUser { password_hash: password.hash()?, loopback_only, admin };
        let value = json(&stored);
        access.put_user(stored.user(name), || {
            self.shared.write_safely(|records| records.put(Space::User, &key(&[name]), &value));
        });
        Ok(new)
    }

    /// Deletes a user, and closes its connections.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` if it is one of the configuration.
    pub fn delete_user(&self, name: &str) -> Result<(), Refusal> {
        let access = &self.shared.access;
        if access.is_configured(name) {
            let text = format!("user '{name}' is in the configuration (auth.users): delete it there");
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        let write = || self.shared.write_safely(|records| records.delete(Space::User, &key(&[name])));
        if !access.remove_user(name, write) {
            return Err(Refusal::new(RefusalKind::NotFound, format!("there is no user '{name}'")));
        }
        let of = |user: Option<&Arc<str>>| user.is_some_and(|user| **user == *name);
        let theirs: Vec<u64> =
            self.connections.iter().filter(|info| of(info.user())).map(|info| info.number()).collect();
        for connection in theirs {
            let _ = self.kick(connection, format!("user '{name}' was deleted"));
        }
        Ok(())
    }

    /// What was changed before is safe when this returns; blocks.
    ///
    /// # Errors
    /// `Unavailable`: it is not.
    pub fn flush(&self) -> Result<(), Refusal> {
        self.shared.engine.log.flush().map_err(|error| {
            Refusal::new(RefusalKind::Unavailable, format!("it cannot be written to the disk: {error}"))
        })
    }
}
