//! Reason codes: the only table between the broker's words (`Refusal`, `Outcome`) and those of the wire.
//!
//! Inside the crate everything is a 5.0 reason code; what 3.x can say of it is decided here, last.

use std::borrow::Cow;

use mynah_core::protocol::{Refusal, RefusalKind, Violation, ViolationKind};

use crate::version::Version;

/// An MQTT 5.0 reason code [MQTT 5.0 2.4].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u8);

impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const CONTINUE_AUTHENTICATION: Self = Self(0x18);
    pub const RE_AUTHENTICATE: Self = Self(0x19);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION: Self = Self(0x83);
    pub const UNSUPPORTED_VERSION: Self = Self(0x84);
    pub const CLIENT_ID_INVALID: Self = Self(0x85);
    pub const BAD_LOGIN: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const SHUTTING_DOWN: Self = Self(0x8b);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8c);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8d);
    pub const TAKEN_OVER: Self = Self(0x8e);
    pub const FILTER_INVALID: Self = Self(0x8f);
    pub const TOPIC_INVALID: Self = Self(0x90);
    pub const IDENTIFIER_IN_USE: Self = Self(0x91);
    pub const IDENTIFIER_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAX_EXCEEDED: Self = Self(0x93);
    pub const ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE: Self = Self(0x98);
    pub const RETAIN_NOT_SUPPORTED: Self = Self(0x9A);
    pub const QOS_NOT_SUPPORTED: Self = Self(0x9B);
    pub const USE_ANOTHER_SERVER: Self = Self(0x9C);
    pub const SERVER_MOVED: Self = Self(0x9D);

    /// 0x80 and above say that something did not happen.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// What the client is told, if it may not know that the rules refuse it.
    #[must_use]
    pub(crate) fn told(self, reveal_denials: bool) -> Self {
        if self == Self::NOT_AUTHORIZED && !reveal_denials { Self::UNSPECIFIED } else { self }
    }

    /// The return code of a CONNACK in 3.x, if there is one for it; where there is none the connection is closed
    /// without a word [MQTT 3.1.1 table 3.1].
    #[must_use]
    pub fn return_code_v3(self) -> Option<u8> {
        match self {
            Self::UNSUPPORTED_VERSION => Some(1),
            Self::CLIENT_ID_INVALID => Some(2),
            Self::SERVER_UNAVAILABLE
            | Self::QUOTA_EXCEEDED
            | Self::UNSPECIFIED
            | Self::USE_ANOTHER_SERVER
            | Self::SERVER_MOVED => Some(3),
            Self::BAD_LOGIN | Self::NOT_AUTHORIZED => Some(5),
            _ => None,
        }
    }
}

/// The peer's packet is wrong: how, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: Reason,
    pub text: Cow<'static, str>,
}

impl Fault {
    #[must_use]
    pub const fn new(reason: Reason, text: &'static str) -> Self {
        Self { reason, text: Cow::Borrowed(text) }
    }

    /// Bytes that are no packet [MQTT 5.0 1.2, Malformed Packet].
    #[must_use]
    pub const fn malformed(text: &'static str) -> Self {
        Self::new(Reason::MALFORMED, text)
    }

    /// A packet that is not allowed here and now [MQTT 5.0 1.2, Protocol Error].
    #[must_use]
    pub const fn protocol(text: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, text)
    }

    #[must_use]
    pub(crate) fn violation(self) -> Violation {
        let kind = match self.reason {
            Reason::MALFORMED => ViolationKind::Malformed,
            Reason::BAD_LOGIN | Reason::NOT_AUTHORIZED | Reason::BAD_AUTHENTICATION_METHOD => {
                ViolationKind::Unauthenticated
            }
            Reason::RECEIVE_MAX_EXCEEDED
            | Reason::PACKET_TOO_LARGE
            | Reason::QUOTA_EXCEEDED
            | Reason::SERVER_UNAVAILABLE => ViolationKind::Limit,
            Reason::KEEP_ALIVE_TIMEOUT => ViolationKind::Timeout,
            _ => ViolationKind::Protocol,
        };
        Violation { kind, text: self.text }
    }
}

/// Why a CONNECT was refused.
#[must_use]
pub(crate) fn of_login(refusal: &Refusal) -> Reason {
    match refusal.kind {
        RefusalKind::Unauthenticated => Reason::BAD_LOGIN,
        RefusalKind::Forbidden | RefusalKind::NotFound => Reason::NOT_AUTHORIZED,
        RefusalKind::Conflict | RefusalKind::Locked | RefusalKind::TooLarge => Reason::CLIENT_ID_INVALID,
        RefusalKind::Full => Reason::QUOTA_EXCEEDED,
        RefusalKind::Unavailable => Reason::SERVER_UNAVAILABLE,
    }
}

/// Why a publish was refused: PUBACK and PUBREC of 5.0 [MQTT 5.0 table 3-4]. 0x95 is not among their codes.
#[must_use]
pub(crate) fn of_publish(refusal: &Refusal) -> Reason {
    match refusal.kind {
        RefusalKind::Unauthenticated | RefusalKind::Forbidden | RefusalKind::Locked => Reason::NOT_AUTHORIZED,
        RefusalKind::NotFound => Reason::TOPIC_INVALID,
        RefusalKind::Full | RefusalKind::TooLarge => Reason::QUOTA_EXCEEDED,
        RefusalKind::Conflict | RefusalKind::Unavailable => Reason::IMPLEMENTATION,
    }
}

/// Whether a 3.x client is told "taken" although it was not: as with mosquitto, what would be refused again is acknowledged
/// [MQTT-3.3.5-2 of 3.1.1]; what may succeed later is not, so that the client sends it again when it reconnects.
#[must_use]
pub(crate) fn acknowledged_in_v3(refusal: &Refusal) -> bool {
    match refusal.kind {
        RefusalKind::Unauthenticated
        | RefusalKind::Forbidden
        | RefusalKind::Locked
        | RefusalKind::NotFound
        | RefusalKind::Conflict
        | RefusalKind::TooLarge => true,
        RefusalKind::Full | RefusalKind::Unavailable => false,
    }
}

/// Why a subscription was refused: SUBACK and UNSUBACK of 5.0.
#[must_use]
pub(crate) fn of_subscribe(refusal: &Refusal) -> Reason {
    match refusal.kind {
        RefusalKind::Unauthenticated | RefusalKind::Forbidden | RefusalKind::Locked => Reason::NOT_AUTHORIZED,
        RefusalKind::Full | RefusalKind::TooLarge => Reason::QUOTA_EXCEEDED,
        RefusalKind::NotFound => Reason::FILTER_INVALID,
        RefusalKind::Conflict => Reason::IMPLEMENTATION,
        RefusalKind::Unavailable => Reason::UNSPECIFIED,
    }
}

/// The code of one filter in a SUBACK: 3.x knows only 0x80 [MQTT 3.1.1 3.9.3].
#[must_use]
pub(crate) fn suback_code(reason: Reason, version: Version) -> u8 {
    if version.has_properties() || !reason.is_failure() { reason.0 } else { Reason::UNSPECIFIED.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_3_x_can_say() {
        assert_eq!(Reason::BAD_LOGIN.return_code_v3(), Some(5));
        assert_eq!(Reason::MALFORMED.return_code_v3(), None);
        assert_eq!(suback_code(Reason::NOT_AUTHORIZED, Version::V311), 0x80);
        assert_eq!(suback_code(Reason::NOT_AUTHORIZED, Version::V5), 0x87);
        assert_eq!(suback_code(Reason(2), Version::V31), 2);
    }

    #[test]
    fn every_refusal_of_a_publish_is_a_code_that_puback_may_carry() {
        // [MQTT 5.0 table 3-4]
        let allowed = [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        for kind in [
            RefusalKind::Unauthenticated,
            RefusalKind::Forbidden,
            RefusalKind::NotFound,
            RefusalKind::Conflict,
            RefusalKind::Locked,
            RefusalKind::Full,
            RefusalKind::TooLarge,
            RefusalKind::Unavailable,
        ] {
            assert!(allowed.contains(&of_publish(&Refusal::new(kind, "")).0), "{kind:?}");
        }
    }
}
