//! Making passwords and their argon2id hashes.
//!
//! Parameters are OWASP's first choice (19 MiB, 2 passes, 1 lane), which are also the crate's defaults; verifying is the
//! broker's business, off the hot path and cached.
//!
//! Never: logs, stores or compares a password.

use anyhow::Context;
use argon2::password_hash::rand_core::{OsRng, RngCore};

/// Letters and digits that are not mistaken for one another when read off a screen.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789Q";

/// Length of a generated password: 20 of 32 symbols are 100 bits.
const GENERATED_LEN: usize = 20;

/// What is kept of a password, with a fresh salt. Errors: the operating system has no randomness.
pub(crate) fn hash(password: &str, scram: bool) -> anyhow::Result<String> {
    mynah_broker::users::hash_password(password, scram).map_err(|refusal| anyhow::anyhow!("{}", refusal.text))
}

/// A password nobody can guess. Errors: the operating system has no randomness.
pub(crate) fn generate() -> anyhow::Result<String> {
    let mut random = [0_u8; GENERATED_LEN];
    OsRng.try_fill_bytes(&mut random).context("no randomness from the operating system")?;
    // 32 symbols divide 256 evenly: no symbol is likelier than another.
    Ok(random
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)).copied())
        .map(char::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordHash;
    use argon2::{Argon2, PasswordVerifier};

    use super::*;

    #[test]
    fn a_hash_verifies_and_is_salted() {
        let one = hash("s3cret", false).unwrap();
        let two = hash("s3cret", false).unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        let parsed = PasswordHash::new(&one).unwrap();
        assert!(Argon2::default().verify_password(b"s3cret", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"other", &parsed).is_err());
    }

    #[test]
    fn generated_passwords_differ_and_are_long() {
        let one = generate().unwrap();
        assert_eq!(one.len(), GENERATED_LEN);
        assert_ne!(one, generate().unwrap());
    }
}
