//! One frame, borrowed from the read buffer.

use std::borrow::Cow;

use bytes::BytesMut;
use memchr::{memchr, memchr2};

use super::escape::{Escape, unescape};
use super::scan::Scanner;
use super::write::header as write_header;
use crate::reason::{Fault, clipped};
use crate::version::Version;

/// What a client can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Connect,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
}

impl Command {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        Ok(match text {
            b"SEND" => Self::Send,
            b"ACK" => Self::Ack,
            b"NACK" => Self::Nack,
            b"SUBSCRIBE" => Self::Subscribe,
            b"UNSUBSCRIBE" => Self::Unsubscribe,
            b"BEGIN" => Self::Begin,
            b"COMMIT" => Self::Commit,
            b"ABORT" => Self::Abort,
            b"CONNECT" | b"STOMP" => Self::Connect,
            b"DISCONNECT" => Self::Disconnect,
            _ => {
                let text = format!(
                    "'{}' is no command of a client. There are CONNECT, SEND, SUBSCRIBE, UNSUBSCRIBE, ACK, NACK, BEGIN, \
                     COMMIT, ABORT and DISCONNECT, in capital letters",
                    clipped(&String::from_utf8_lossy(text))
                );
                return Err(Fault::malformed("no command", text));
            }
        })
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Send => "SEND",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
            Self::Disconnect => "DISCONNECT",
        }
    }
}

/// Where one header is: offsets from the frame's first byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    from: usize,
    colon: usize,
    end: usize,
}

impl Line {
    pub(super) fn new(from: usize, colon: usize, end: usize) -> Self {
        Self { from, colon, end }
    }

    pub(super) fn name(self, frame: &[u8]) -> &[u8] {
        frame.get(self.from..self.colon).unwrap_or_default()
    }

    pub(super) fn value(self, frame: &[u8]) -> &[u8] {
        frame.get(self.colon + 1..self.end).unwrap_or_default()
    }
}

/// A whole frame whose headers are UTF-8 and whose escapes are those of its version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) command: Command,
    pub(crate) body: &'a [u8],
    /// Whether there was a `content-length`.
    pub(crate) counted: bool,
    pub(crate) escape: Escape,
    head: &'a str,
    lines: &'a [Line],
    /// No backslash anywhere.
    plain: bool,
    /// 1.0: blanks around names and values do not belong to them.
    trim: bool,
}

impl<'a> Frame<'a> {
    /// The frame the scanner found at the start of `bytes`.
    ///
    /// # Errors
    /// Headers that are not UTF-8, undefined escapes, a body where none is allowed.
    pub(crate) fn found(
        bytes: &'a [u8],
        scanner: &'a Scanner,
        version: Option<Version>,
    ) -> Result<Self, Fault> {
        let head = bytes.get(..scanner.body).unwrap_or_default();
        let head = std::str::from_utf8(head).map_err(|_| {
            Fault::malformed("headers not in UTF-8", "Command and headers are UTF-8. Send bytes in the body")
        })?;
        let command = scanner.command.unwrap_or(Command::Disconnect);
        let escape = match version {
            // CONNECT is never unescaped, so that 1.0 servers can read it [STOMP 1.2, Value Encoding].
            Some(version) if command != Command::Connect => version.into(),
            _ => Escape::None,
        };
        let frame = Self {
            command,
            body: bytes.get(scanner.body..scanner.body_end).unwrap_or_default(),
            counted: scanner.length.is_some(),
            escape,
            plain: memchr(b'\\', head.as_bytes()).is_none(),
            head,
            lines: &scanner.lines,
            trim: version == Some(Version::V1_0),
        };
        frame.check(version)?;
        Ok(frame)
    }

    /// CONNECT decides the version by which its own headers are read.
    pub(crate) fn trimmed(self) -> Self {
        Self { trim: true, ..self }
    }

    fn check(&self, version: Option<Version>) -> Result<(), Fault> {
        if self.escape != Escape::None && !self.plain {
            for (name, value) in self.headers() {
                if unescape(self.escape, name).is_none() || unescape(self.escape, value).is_none() {
                    let text = format!(
                        "The header '{}:{}' has a backslash that begins no escape of this version. \
                         Write \\\\ for a backslash, \\n for a line feed, \\c for a colon",
                        clipped(name),
                        clipped(value)
                    );
                    return Err(Fault::malformed("undefined escape", text));
                }
            }
        }
        // 1.0 says a body is ignored; later ones forbid it. Line ends are what people type [STOMP 1.2, Body].
        let bodiless =
            self.command != Command::Send && version.is_some_and(|version| version > Version::V1_0);
        if bodiless && self.body.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            let text = "Only SEND may have a body. Put NUL right after the empty line";
            return Err(Fault::malformed("body not allowed", text));
        }
        Ok(())
    }

    /// Headers in order, repeated ones too, as they were written: escapes stay.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let (head, trim) = (self.head, self.trim);
        self.lines.iter().map(move |line| {
            let name = head.get(line.from..line.colon).unwrap_or_default();
            let value = head.get(line.colon + 1..line.end).unwrap_or_default();
            if trim { (name.trim(), value.trim()) } else { (name, value) }
        })
    }

    pub(crate) fn headers_len(&self) -> usize {
        self.lines.len()
    }

    /// Whether one of the first `at` headers has this name.
    pub(crate) fn is_repeated(&self, at: usize, name: &str) -> bool {
        let earlier = self.lines.iter().take(at);
        earlier.filter(|line| line.colon - line.from >= name.len()).any(|line| {
            let other = self.head.get(line.from..line.colon).unwrap_or_default();
            name == if self.trim { other.trim() } else { other }
        })
    }

    /// Appends the header at that place as it is escaped in 1.2.
    pub(crate) fn copy(&self, at: usize, out: &mut BytesMut) {
        let Some(line) = self.lines.get(at) else { return };
        let head = self.head.as_bytes();
        let (name, value) = (line.name(head), line.value(head));
        // As a rule nothing in it needs an escape, and the line is taken as it is.
        let plain = self.plain && memchr2(b':', b'\r', value).is_none() && memchr(b'\r', name).is_none();
        if plain && !self.trim {
            out.extend_from_slice(head.get(line.from..line.end).unwrap_or_default());
            out.extend_from_slice(b"\n");
        } else if let Some((name, value)) = self.headers().nth(at) {
            write_header(Escape::V1_2, &self.text(name), &self.text(value), out);
        }
    }

    /// The text behind the escapes.
    pub(crate) fn text(&self, raw: &'a str) -> Cow<'a, str> {
        if self.plain {
            return Cow::Borrowed(raw);
        }
        // The escapes were checked when the frame was found.
        unescape(self.escape, raw).unwrap_or(Cow::Borrowed(raw))
    }

    /// The value of a header; of a repeated one the first [STOMP 1.2, Repeated Header Entries].
    pub(crate) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.headers().find(|(own, _)| *own == name).map(|(_, value)| self.text(value))
    }

    /// Whether a header is there and says `true`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.trim() == "true")
    }

    /// A header without which the frame has no sense.
    ///
    /// # Errors
    /// It is missing or empty.
    pub(crate) fn require(&self, name: &str, hint: &str) -> Result<Cow<'a, str>, Fault> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Fault::missing(self.command.text(), name, hint))
    }
}
