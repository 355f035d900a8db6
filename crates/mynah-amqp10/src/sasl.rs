//! The SASL layer: mechanisms, init, outcome (AMQP 1.0 part 5.3).
//!
//! Never: sees a password longer than a frame, or keeps one.

use bytes::{BufMut, BytesMut};
use mynah_core::protocol::Credentials;

use crate::codec::CodecError;
use crate::codec::frame::{self, FrameKind};
use crate::codec::reader::Reader;
use crate::codec::writer::{composite, put_symbols};

const MECHANISMS: u8 = 0x40;
const INIT: u64 = 0x41;
const OUTCOME: u8 = 0x44;

/// A way to say who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// User and password in the clear [RFC 4616].
    Plain,
    /// Nobody in particular [RFC 4505]; the broker decides whether that is enough.
    Anonymous,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

/// How it went [AMQP 5.3.3.6].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok,
    /// Wrong credentials, or a mechanism that was not offered.
    Auth,
    /// Not now: a temporary problem of the broker.
    SysTemp,
}

pub(crate) fn write_mechanisms(wire: &mut BytesMut, offered: &[Mechanism]) {
    let names: Vec<&str> = offered.iter().map(|mechanism| mechanism.name()).collect();
    frame::write(wire, FrameKind::Sasl, 0, |buf| {
        composite(buf, MECHANISMS, |list| list.field(Some(&*names), put_symbols));
    });
}

pub(crate) fn write_outcome(wire: &mut BytesMut, code: Code) {
    let code = match code {
        Code::Ok => 0,
        Code::Auth => 1,
        Code::SysTemp => 4,
    };
    frame::write(wire, FrameKind::Sasl, 0, |buf| {
        composite(buf, OUTCOME, |list| list.field(Some(code), |buf, code| buf.put_slice(&[0x50, code])));
    });
}

/// What the client's init says of it; `None` if its mechanism was not offered or its response makes no sense.
///
/// # Errors
/// The frame is no sasl-init.
pub(crate) fn read_init<'a>(
    body: &'a [u8],
    offered: &[Mechanism],
) -> Result<Option<Credentials<'a>>, CodecError> {
    let mut reader = Reader::new(body);
    let descriptor = reader.descriptor()?;
    if descriptor != INIT {
        return Err(CodecError::Descriptor(descriptor));
    }
    let mut fields = reader.list()?;
    let name = fields.symbol()?.ok_or(CodecError::Missing("mechanism"))?;
    let response = fields.binary()?.unwrap_or_default();
    let mechanism = offered.iter().find(|mechanism| mechanism.name() == name);
    Ok(match mechanism {
        Some(Mechanism::Anonymous) => Some(Credentials::Anonymous),
        Some(Mechanism::Plain) => plain(response),
        None => None,
    })
}

/// authzid NUL authcid NUL password [RFC 4616 2]. To act for somebody else is not offered.
fn plain(response: &[u8]) -> Option<Credentials<'_>> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let acting_as = parts.next()?;
    let user = std::str::from_utf8(parts.next()?).ok()?;
    let password = parts.next()?;
    let oneself = acting_as.is_empty() || acting_as == user.as_bytes();
    oneself.then_some(Credentials::Password { user, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: &[u8], expected: Option<(&str, &[u8])>) {
        let found = plain(response).map(|credentials| match credentials {
            Credentials::Password { user, password } => (user, password),
            Credentials::Anonymous | Credentials::Name(_) | Credentials::Sasl { .. } => ("", &[][..]),
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn plain_responses() {
        // [RFC 4616 2]
        check(b"\0guest\0secret", Some(("guest", b"secret")));
        check(b"guest\0guest\0s\0t", Some(("guest", b"s\0t")));
        check(b"other\0guest\0secret", None);
        check(b"guest", None);
        check(b"\0\xff\0x", None);
    }
}
