//! The server's half of SCRAM-SHA-256 [RFC 5802, RFC 7677]: the password never crosses the wire, and neither side believes the
//! other without proof.
//!
//! A user's secret is either made from a password in the clear when it is first needed, or stored as
//! `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (base64), the form PostgreSQL uses as well. Channel binding is not
//! offered. Never: normalises names or passwords; it compares bytes.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::access::same;

/// Name of the mechanism, and of the stored form.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Iterations of what we make; the least that RFC 7677 allows.
const ITERATIONS: u32 = 4096;
/// More would let a configuration file stop the broker.
const ITERATIONS_MAX: u32 = 10_000_000;
const KEY_LEN: usize = 32;

type Key = [u8; KEY_LEN];

/// What the server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The exchange cannot go on; the client is not told why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

impl Secret {
    /// With a fresh salt.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn of_password(password: &[u8]) -> Result<Self, Failed> {
        let iterations = NonZeroU32::new(ITERATIONS).ok_or(Failed)?;
        Ok(Self::derive(password, random::<16>()?.to_vec(), iterations))
    }

    fn derive(password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let stored_key = hash(&mac(&salted, b"Client Key"));
        let server_key = mac(&salted, b"Server Key");
        Self { iterations, salt, stored_key, server_key }
    }

    /// A secret nobody's password has, the same each time for one name, so that a stranger does not learn which users exist.
    fn of_nobody(name: &str, seed: &Key) -> Self {
        let salt = mac(seed, name.as_bytes()).iter().copied().take(16).collect();
        let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
        Self { iterations, salt, stored_key: [0; KEY_LEN], server_key: [0; KEY_LEN] }
    }

    /// `None` if it is not well formed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| Key::try_from(STANDARD.decode(text).ok()?).ok();
        let iterations =
            iterations.parse().ok().filter(|count| (ITERATIONS..=ITERATIONS_MAX).contains(count))?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        Some(Self {
            iterations: NonZeroU32::new(iterations)?,
            salt,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// The stored form.
    #[must_use]
    pub fn store(&self) -> String {
        let Self { iterations, salt, stored_key, server_key } = self;
        let [salt, stored, server] =
            [salt, &stored_key.to_vec(), &server_key.to_vec()].map(|it| STANDARD.encode(it));
        format!("{MECHANISM}${iterations}:{salt}${stored}:{server}")
    }

    /// Whether this is the password. Takes as long as [`Secret::of_password`].
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let derived = Self::derive(password, self.salt.clone(), self.iterations);
        same(&derived.stored_key, &self.stored_key)
    }
}

/// A conversation with one client.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// The client has said nothing yet.
    Begun,
    Challenged(Challenged),
}

/// It has named itself and was given salt and nonce.
#[derive(Debug)]
pub(crate) struct Challenged {
    pub(crate) user: String,
    header: String,
    nonce: String,
    /// What both sides sign, as far as it has been said.
    said: String,
    secret: Secret,
    known: bool,
}

impl Exchange {
    /// `client-first-message` in, `server-first-message` out. `secret_of` answers a user's secret.
    pub(crate) fn challenge(
        first: &[u8],
        seed: &Key,
        secret_of: impl FnOnce(&str) -> Option<Secret>,
    ) -> Result<(Challenged, String), Failed> {
        let ours: [u8; 18] = random()?;
        Self::challenge_with(first, seed, &STANDARD.encode(ours), secret_of)
    }

    fn challenge_with(
        first: &[u8],
        seed: &Key,
        ours: &str,
        secret_of: impl FnOnce(&str) -> Option<Secret>,
    ) -> Result<(Challenged, String), Failed> {
        let text = std::str::from_utf8(first).map_err(|_| Failed)?;
        let mut parts = text.splitn(3, ',');
        let binding = parts.next().ok_or(Failed)?;
        let identity = parts.next().ok_or(Failed)?;
        let bare = parts.next().ok_or(Failed)?;
        // To act for somebody else, or bound to a channel, is not offered.
        if !matches!(binding, "n" | "y") || !identity.is_empty() {
            return Err(Failed);
        }
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|it| it.strip_prefix("n=")).ok_or(Failed)?;
        let theirs = attributes.next().and_then(|it| it.strip_prefix("r=")).ok_or(Failed)?;
        if theirs.is_empty() || !theirs.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failed);
        }
        let user = name.replace("=2C", ",").replace("=3D", "=");
        let found = secret_of(&user);
        let known = found.is_some();
        let secret = found.unwrap_or_else(|| Secret::of_nobody(&user, seed));
        let nonce = format!("{theirs}{ours}");
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&secret.salt), secret.iterations);
        let said = format!("{bare},{answer}");
        Ok((Challenged { user, header: format!("{binding},,"), nonce, said, secret, known }, answer))
    }
}

impl Challenged {
    /// `client-final-message` in, `server-final-message` out.
    pub(crate) fn finish(&self, last: &[u8]) -> Result<String, Failed> {
        let text = std::str::from_utf8(last).map_err(|_| Failed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Failed)?;
        let mut attributes = without_proof.split(',');
        let header = attributes.next().and_then(|it| it.strip_prefix("c=")).ok_or(Failed)?;
        let nonce = attributes.next().and_then(|it| it.strip_prefix("r=")).ok_or(Failed)?;
        if header != STANDARD.encode(&self.header) || nonce != self.nonce {
            return Err(Failed);
        }
        let proof = STANDARD.decode(proof).map_err(|_| Failed)?;
        let proof = Key::try_from(proof).map_err(|_| Failed)?;
        let message = format!("{},{without_proof}", self.said);
        let mut client_key = mac(&self.secret.stored_key, message.as_bytes());
        client_key.iter_mut().zip(proof).for_each(|(byte, proof)| *byte ^= proof);
        if !self.known || !same(&hash(&client_key), &self.secret.stored_key) {
            return Err(Failed);
        }
        let signature = mac(&self.secret.server_key, message.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature)))
    }
}

fn mac(key: &[u8], text: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    Key::try_from(tag.as_ref()).unwrap_or([0; KEY_LEN])
}

fn hash(text: &[u8]) -> Key {
    Key::try_from(digest::digest(&digest::SHA256, text).as_ref()).unwrap_or([0; KEY_LEN])
}

/// # Errors
/// The operating system has none.
pub(crate) fn random<const LEN: usize>() -> Result<[u8; LEN], Failed> {
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversation of RFC 7677 section 3.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> Secret {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Secret::derive(b"pencil", salt, NonZeroU32::new(4096).unwrap())
    }

    fn challenged(first: &[u8]) -> Result<(Challenged, String), Failed> {
        Exchange::challenge_with(first, &[7; 32], OURS, |user| (user == "user").then(pencil))
    }

    #[test]
    fn the_example_of_the_rfc() {
        let (exchange, answer) = challenged(CLIENT_FIRST).unwrap();
        assert_eq!(answer, SERVER_FIRST);
        assert_eq!(exchange.user, "user");
        assert_eq!(exchange.finish(CLIENT_FINAL).unwrap(), SERVER_FINAL);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let (exchange, _) = challenged(CLIENT_FIRST).unwrap();
        let text = std::str::from_utf8(CLIENT_FINAL).unwrap();
        for (from, to) in [("p=d", "p=e"), ("c=biws", "c=eSws"), ("k0,", "k1,"), (",p=", ",q="), ("=", "")] {
            assert_eq!(exchange.finish(text.replacen(from, to, 1).as_bytes()), Err(Failed), "{from}");
        }
        for first in
            ["", "n,,", "p=tls-unique,,n=user,r=x", "n,a=other,n=user,r=x", "n,,r=x,n=user", "n,,n=user,r="]
        {
            assert!(challenged(first.as_bytes()).is_err(), "{first}");
        }
    }

    #[test]
    fn an_unknown_user_looks_like_any_other_until_the_end() {
        let unknown = CLIENT_FIRST.to_ascii_lowercase();
        let first = std::str::from_utf8(&unknown).unwrap().replace("n=user", "n=nobody");
        let (one, answer) = challenged(first.as_bytes()).unwrap();
        let (_, again) = challenged(first.as_bytes()).unwrap();
        assert_eq!(answer, again);
        let nonce = answer.split(',').next().unwrap();
        let last = format!("c=biws,{nonce},p={}", STANDARD.encode([0; 32]));
        assert_eq!(one.finish(last.as_bytes()), Err(Failed));
    }

    #[test]
    fn names_with_commas() {
        let secret_of = |user: &str| {
            assert_eq!(user, "a,b=c");
            None
        };
        Exchange::challenge_with(b"y,,n=a=2Cb=3Dc,r=x", &[7; 32], OURS, secret_of).unwrap();
    }

    #[test]
    fn the_stored_form_comes_back() {
        let secret = Secret::of_password(b"geheim").unwrap();
        assert_eq!(Secret::parse(&secret.store()).as_ref(), Some(&secret));
        assert!(secret.verify(b"geheim") && !secret.verify(b"other"));
        for text in ["", "SCRAM-SHA-256$4096:$a:b", "SCRAM-SHA-256$1:c2FsdA==$AA==:AA=="] {
            assert_eq!(Secret::parse(text), None);
        }
    }
}
