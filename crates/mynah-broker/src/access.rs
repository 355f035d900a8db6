//! Who may connect, and what they may do. One function answers for every way a message can take.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use mynah_core::AddressRef;
use mynah_core::protocol::{Credentials, Peer, Refusal, RefusalKind};
use parking_lot::{Mutex, RwLock};

use crate::config::{Anonymous, AuthConfig, Password, User};
use crate::guard::Guard;
use crate::limits::VERIFIED_PASSWORDS_MAX;
use crate::rules::{Action, Rules, Who};
use crate::scram::{self, Secret};
use crate::users::UserView;
use crate::virtual_host::TOPIC_EXCHANGE;

/// The name of those who did not give one.
pub const ANONYMOUS: &str = "anonymous";

#[derive(Debug)]
pub struct Access {
    anonymous: Anonymous,
    /// Of the configuration.
    users: HashMap<Arc<str>, User>,
    /// Those that operators have made.
    made: RwLock<HashMap<Arc<str>, User>>,
    /// [`ANONYMOUS`]: all connections of a user share its name.
    nobody: Arc<str>,
    pub rules: Rules,
    pub(crate) guard: Guard,
    /// Secrets of users whose password is in the clear, made when first needed.
    secrets: Mutex<HashMap<String, Secret>>,
    /// Of what is told to users that do not exist.
    seed: [u8; 32],
    // Two keyed hashes of user and password that were verified before: argon2 is slow on purpose, once is enough.
    verified: Mutex<HashMap<u64, u64>>,
    keys: (RandomState, RandomState),
}

/// What is known at once about a login.
#[derive(Debug)]
pub enum Login {
    Yes(Arc<str>),
    No(Refusal),
    /// The hash has to be computed; do it away from the task that reads sockets.
    Verify {
        hash: String,
    },
}

impl Access {
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        Self {
            anonymous: config.anonymous,
            users: config.users.iter().map(|user| (user.name.as_str().into(), user.clone())).collect(),
            made: RwLock::default(),
            nobody: ANONYMOUS.into(),
            rules: Rules::new(config.rules.clone()),
            guard: Guard::new(config.failures_max),
            secrets: Mutex::default(),
            // Without randomness nobody could log in that way at all.
            seed: scram::random().unwrap_or_default(),
            verified: Mutex::default(),
            keys: (RandomState::new(), RandomState::new()),
        }
    }

    #[must_use]
    pub fn anonymous(&self, peer: &Peer) -> Login {
        let allowed = match (peer.anonymous, self.anonymous) {
            (Some(allowed), _) => allowed,
            (None, Anonymous::Never) => false,
            (None, Anonymous::Loopback) => peer.address.ip().to_canonical().is_loopback(),
            (None, Anonymous::Always) => true,
        };
        if allowed {
            return Login::Yes(Arc::clone(&self.nobody));
        }
        Login::No(Refusal::new(
            RefusalKind::Unauthenticated,
            "anonymous connections are not allowed from here: give a user and a password (auth.anonymous)",
        ))
    }

    /// What credentials count for that prove nothing; all others are what they were.
    ///
    /// A name without a password, as the trace of SASL ANONYMOUS [RFC 4505 2], gives no rights: who may come without a name may say
    /// any that is no user's. A certificate says more than a name, and may be accompanied by its own. In all other cases a
    /// password is missing, which is answered as a wrong one.
    ///
    /// Where there are no users at all no password can be right, and who may come without one may come with any.
    pub(crate) fn unproven<'a>(&self, peer: &Peer, credentials: Credentials<'a>) -> Credentials<'a> {
        let open = || matches!(self.anonymous(peer), Login::Yes(_));
        match credentials {
            Credentials::Name(name) => {
                let certified = peer.certified.as_deref() == Some(name);
                if certified || (self.find(name).is_none() && open()) {
                    Credentials::Anonymous
                } else {
                    Credentials::Password { user: name, password: &[] }
                }
            }
            Credentials::Password { .. } if self.has_no_users() && open() => Credentials::Anonymous,
            Credentials::Password { .. } | Credentials::Anonymous | Credentials::Sasl { .. } => credentials,
        }
    }

    fn has_no_users(&self) -> bool {
        self.users.is_empty() && self.made.read().is_empty()
    }

    #[must_use]
    pub fn password(&self, peer: SocketAddr, name: &str, password: &[u8]) -> Login {
        let Some((name, user)) = self.find(name) else { return Login::No(wrong()) };
        if let Err(refusal) = may_come_from(peer, &user) {
            return Login::No(refusal);
        }
        match &user.password {
            Password::Clear(expected) => {
                if same(expected.as_bytes(), password) {
                    Login::Yes(name)
                } else {
                    Login::No(wrong())
                }
            }
            Password::Hash(hash) => {
                let known = self.verified.lock().get(&self.keys.0.hash_one((&*name, password))).copied();
                if known == Some(self.keys.1.hash_one((&*name, password, hash))) {
                    return Login::Yes(name);
                }
                Login::Verify { hash: hash.clone() }
            }
        }
    }

    /// Computes the hash: tens of milliseconds of one core.
    ///
    /// # Errors
    /// The password is wrong.
    pub fn verify(&self, name: &str, password: &[u8], hash: &str) -> Result<Arc<str>, Refusal> {
        if hash.starts_with(scram::MECHANISM) {
            Secret::parse(hash).filter(|secret| secret.verify(password)).ok_or_else(wrong)?;
        } else {
            let parsed = PasswordHash::new(hash).map_err(|_| wrong())?;
            Argon2::default().verify_password(password, &parsed).map_err(|_| wrong())?;
        }
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_PASSWORDS_MAX {
            verified.clear();
        }
        verified.insert(self.keys.0.hash_one((name, password)), self.keys.1.hash_one((name, password, hash)));
        // It may have been deleted or given another password meanwhile.
        self.find(name)
            .filter(|(_, user)| user.password.is_hash(hash))
            .map(|(name, _)| name)
            .ok_or_else(wrong)
    }

    /// What SCRAM needs to know of a user; `None` if there is no such user, not from there, or only an argon2 hash of the password.
    #[must_use]
    pub fn scram_secret(&self, peer: SocketAddr, name: &str) -> Option<Secret> {
        let (_, user) = self.find(name).filter(|(_, user)| may_come_from(peer, user).is_ok())?;
        match &user.password {
            Password::Hash(stored) => Secret::parse(stored),
            Password::Clear(password) => {
                if let Some(known) = self.secrets.lock().get(name) {
                    return Some(known.clone());
                }
                let secret = Secret::of_password(password.as_bytes()).ok()?;
                Some(self.secrets.lock().entry(name.to_owned()).or_insert(secret).clone())
            }
        }
    }

    fn find(&self, name: &str) -> Option<(Arc<str>, User)> {
        let known = self.users.get_key_value(name).map(|(name, user)| (Arc::clone(name), user.clone()));
        known.or_else(|| {
            let made = self.made.read();
            made.get_key_value(name).map(|(name, user)| (Arc::clone(name), user.clone()))
        })
    }

    /// Whether a user, or who came in without a name, may use the admin API.
    #[must_use]
    pub fn is_admin(&self, name: &str) -> bool {
        name == ANONYMOUS || self.find(name).is_some_and(|(_, user)| user.admin)
    }

    /// Whether there is no such user, and how many there are.
    pub(crate) fn is_new(&self, name: &str) -> (bool, usize) {
        let made = self.made.read();
        (!self.users.contains_key(name) && !made.contains_key(name), self.users.len() + made.len())
    }

    pub(crate) fn is_configured(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// In force from the next login on. `write` is called before anybody else can change one: what is kept is what holds.
    pub(crate) fn put_user(&self, user: User, write: impl FnOnce()) {
        let mut made = self.made.write();
        made.insert(user.name.as_str().into(), user);
        write();
    }

    pub(crate) fn remove_user(&self, name: &str, write: impl FnOnce()) -> bool {
        let mut made = self.made.write();
        let known = made.remove(name).is_some();
        if known {
            write();
        }
        known
    }

    /// All users, by name.
    #[must_use]
    pub fn user_views(&self) -> Vec<UserView> {
        let view = |name: &Arc<str>, user: &User, configured| UserView {
            name: Arc::clone(name),
            loopback_only: user.loopback_only,
            admin: user.admin,
            configured,
        };
        let made = self.made.read();
        let configured = self.users.iter().map(|(name, user)| view(name, user, true));
        let hidden = |name: &Arc<str>| self.users.contains_key(name);
        let made = made.iter().filter(|(name, _)| !hidden(name)).map(|(name, user)| view(name, user, false));
        let mut views: Vec<_> = configured.chain(made).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Whether a user may do this; the one place that is asked for live, retained, dead-lettered and HTTP traffic.
    ///
    /// # Errors
    /// `Forbidden`, with what to change.
    pub fn authorise(&self, who: Who<'_>, action: Action, address: AddressRef<'_>) -> Result<(), Refusal> {
        let reserved = match (action, address) {
            // What the broker says about itself, only it says.
            (Action::Publish, AddressRef::Topic(topic)) => topic.starts_with("$SYS/"),
            (Action::Publish, AddressRef::Exchange { name: TOPIC_EXCHANGE, key }) => key.starts_with("$SYS."),
            // A client's own address is nobody else's to listen to.
            (Action::Subscribe, AddressRef::Topic(topic)) if topic.starts_with("$P2P/") => true,
            (Action::Subscribe, AddressRef::Topic(topic)) => {
                topic.strip_prefix("$response/").is_some_and(|rest| !is_of(who.client, rest))
            }
            _ => false,
        };
        if reserved {
            return Err(Refusal::new(
                RefusalKind::Forbidden,
                format!("{address} is reserved for the broker"),
            ));
        }
        if self.rules.allow(who, action, address) {
            return Ok(());
        }
        let verb = match action {
            Action::Publish => "publish to",
            Action::Connect | Action::Subscribe | Action::Deliver => "subscribe to",
        };
        Err(Refusal::new(
            RefusalKind::Forbidden,
            format!("user '{}' may not {verb} {address} (auth.rules)", who.user),
        ))
    }
}

/// What stands behind `$response/` is below a client's own word.
fn is_of(client: &str, rest: &str) -> bool {
    rest.split('/').next() == Some(client) && !client.contains(['+', '#'])
}

fn may_come_from(peer: SocketAddr, user: &User) -> Result<(), Refusal> {
    if user.loopback_only && !peer.ip().to_canonical().is_loopback() {
        return Err(Refusal::new(
            RefusalKind::Unauthenticated,
            format!("user '{}' may only connect from this machine", user.name),
        ));
    }
    Ok(())
}

pub(crate) fn wrong() -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, "unknown user or wrong password")
}

/// Compares without telling by the time it takes where the difference is.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let user = |name: &str, password, loopback_only| User {
            name: name.into(),
            password,
            loopback_only,
            admin: false,
        };
        // Cheap parameters: the test is about the decision, not the cost.
        let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$";
        Access::new(&AuthConfig {
            anonymous: Anonymous::Loopback,
            failures_max: 0,
            rules: Vec::new(),
            users: vec![
                user("guest", Password::Clear("guest".into()), true),
                user("hashed", Password::Hash(hash.into()), false),
            ],
        })
    }

    #[test]
    fn guest_and_anonymous_only_from_here() {
        let access = access();
        let (here, there) = ("127.0.0.1:1".parse().unwrap(), "192.0.2.1:1".parse().unwrap());
        let peer = |address| Peer::new(1, address, "test");
        assert!(matches!(access.anonymous(&peer(here)), Login::Yes(_)));
        assert!(matches!(access.anonymous(&peer(there)), Login::No(_)));
        let said = |anonymous, address| Peer { anonymous, ..peer(address) };
        assert!(matches!(access.anonymous(&said(Some(false), here)), Login::No(_)));
        assert!(matches!(access.anonymous(&said(Some(true), there)), Login::Yes(_)));
        assert!(matches!(access.password(here, "guest", b"guest"), Login::Yes(_)));
        assert!(matches!(access.password(there, "guest", b"guest"), Login::No(_)));
        assert!(matches!(access.password(here, "guest", b"wrong"), Login::No(_)));
        assert!(matches!(access.password(here, "nobody", b"guest"), Login::No(_)));
        assert!(matches!(access.password(here, "hashed", b"x"), Login::Verify { .. }));
        assert!(access.verify("hashed", b"x", "not a hash").is_err());
    }

    #[test]
    fn a_name_without_a_password_is_as_good_as_none() {
        let access = access();
        let peer = |address: &str| Peer::new(1, address.parse().unwrap(), "test");
        let counts = |peer: &Peer, name| {
            matches!(access.unproven(peer, Credentials::Name(name)), Credentials::Anonymous)
        };
        let (here, there) = (peer("127.0.0.1:1"), peer("192.0.2.1:1"));
        assert!(counts(&here, "sensor") && counts(&here, ""));
        // Where nobody comes in without a name, a name does not help.
        assert!(!counts(&there, "sensor"));
        // A user's name is taken, until its owner is gone.
        assert!(!counts(&here, "guest"));
        let made = User { name: "made".into(), ..access.users["hashed"].clone() };
        access.put_user(made, || ());
        assert!(!counts(&here, "made"));
        access.remove_user("made", || ());
        assert!(counts(&here, "made"));
        // A certificate vouches for its own name and no other.
        let certified = Peer { certified: Some("hashed".into()), ..there };
        assert!(
            counts(&certified, "hashed") && !counts(&certified, "guest") && !counts(&certified, "sensor")
        );
    }

    #[test]
    fn without_users_a_password_is_as_good_as_none() {
        let access = Access::new(&AuthConfig {
            anonymous: Anonymous::Loopback,
            failures_max: 0,
            rules: Vec::new(),
            users: Vec::new(),
        });
        let peer = |address: &str| Peer::new(1, address.parse().unwrap(), "test");
        let counts = |peer: &Peer| {
            let credentials = Credentials::Password { user: "guest", password: b"guest" };
            matches!(access.unproven(peer, credentials), Credentials::Anonymous)
        };
        assert!(counts(&peer("127.0.0.1:1")) && !counts(&peer("192.0.2.1:1")));
        let made = User {
            name: "made".into(),
            password: Password::Clear("x".into()),
            loopback_only: false,
            admin: false,
        };
        access.put_user(made, || ());
        assert!(!counts(&peer("127.0.0.1:1")));
    }
}
