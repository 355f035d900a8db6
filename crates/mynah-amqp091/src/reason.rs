//! Reply codes (0-9-1 section 1.2): the only table from the broker's refusals, and from what a client does wrong, to the wire.
//!
//! Soft errors end the channel, hard ones the connection. The texts are RabbitMQ's, because clients compare them.
//! Never: closes anything.

use std::borrow::Cow;

use mynah_core::protocol::{Refusal, RefusalKind, ViolationKind};

use crate::codec::CodecError;
use crate::codec::frame::FrameError;

/// A reply code. Soft up to `PreconditionFailed`, apart from `ConnectionForced` and `InvalidPath`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum Code {
    NoRoute = 312,
    ConnectionForced = 320,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl Code {
    pub(crate) fn number(self) -> u16 {
        self as u16
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "NO_ROUTE",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether it ends the connection.
    pub(crate) fn is_hard(self) -> bool {
        match self {
            Self::NoRoute
            | Self::AccessRefused
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed => false,
            Self::ConnectionForced
            | Self::FrameError
            | Self::SyntaxError
            | Self::CommandInvalid
            | Self::ChannelError
            | Self::UnexpectedFrame
            | Self::ResourceError
            | Self::NotAllowed
            | Self::NotImplemented
            | Self::InternalError => true,
        }
    }

    /// Of a hard code: what the log calls it.
    pub(crate) fn violation(self) -> ViolationKind {
        match self {
            Self::FrameError | Self::SyntaxError => ViolationKind::Malformed,
            Self::ResourceError => ViolationKind::Limit,
            Self::AccessRefused => ViolationKind::Unauthenticated,
            Self::NoRoute
            | Self::ConnectionForced
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed
            | Self::CommandInvalid
            | Self::ChannelError
            | Self::UnexpectedFrame
            | Self::NotAllowed
            | Self::NotImplemented
            | Self::InternalError => ViolationKind::Protocol,
        }
    }
}

/// Why a channel or the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) text: Cow<'static, str>,
    /// Class and method that caused it; zeros if none did.
    pub(crate) caused_by: (u16, u16),
}

impl Fault {
    pub(crate) fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), caused_by: (0, 0) }
    }

    pub(crate) fn by(self, caused_by: (u16, u16)) -> Self {
        Self { caused_by, ..self }
    }

    /// `NOT_FOUND - no queue 'x' in vhost '/'`
    pub(crate) fn reply_text(&self) -> String {
        format!("{} - {}", self.code.name(), self.text)
    }

    pub(crate) fn precondition(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::PreconditionFailed, text)
    }

    pub(crate) fn access(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::AccessRefused, text)
    }

    pub(crate) fn unexpected(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::UnexpectedFrame, text)
    }

    pub(crate) fn unknown_delivery_tag(tag: u64) -> Self {
        Self::precondition(format!("unknown delivery tag {tag}"))
    }

    /// The broker said no to a request on a channel.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Unauthenticated | RefusalKind::Forbidden => Code::AccessRefused,
            RefusalKind::NotFound => Code::NotFound,
            RefusalKind::Locked => Code::ResourceLocked,
            RefusalKind::Conflict | RefusalKind::Full | RefusalKind::TooLarge => Code::PreconditionFailed,
            RefusalKind::Unavailable => Code::InternalError,
        };
        Self::new(code, refusal.text)
    }

    /// The broker said no to `connection.open`.
    pub(crate) fn not_opened(refusal: &Refusal, virtual_host: &str) -> Self {
        match refusal.kind {
            RefusalKind::NotFound => Self::new(Code::NotAllowed, format!("vhost {virtual_host} not found")),
            RefusalKind::Unauthenticated | RefusalKind::Forbidden => Self::new(
                Code::NotAllowed,
                format!("access to vhost '{virtual_host}' refused: {}", refusal.text),
            ),
            RefusalKind::Conflict
            | RefusalKind::Locked
            | RefusalKind::Full
            | RefusalKind::TooLarge
            | RefusalKind::Unavailable => Self::new(Code::NotAllowed, refusal.text.clone()),
        }
    }
}

impl From<CodecError> for Fault {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Method { .. } => Self::new(Code::CommandInvalid, error.to_string()),
            CodecError::Truncated
            | CodecError::NotUtf8
            | CodecError::FieldType(_)
            | CodecError::TooDeep
            | CodecError::Trailing
            | CodecError::PropertyFlags => Self::new(Code::SyntaxError, format!("cannot be read: {error}")),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let text = match error {
            FrameError::Type(kind) => format!("unknown frame type {kind}"),
            FrameError::TooLarge { len, max } => {
                format!("a frame of {len} bytes is larger than the negotiated frame_max of {max}")
            }
            FrameError::End(octet) => format!("frame end octet 0xCE expected, got 0x{octet:02X}"),
        };
        Self::new(Code::FrameError, text)
    }
}
