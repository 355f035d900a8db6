//! Finds the frames in a byte stream, however it is cut.
//!
//! What was looked at once is not looked at again: the scanner remembers how far it came in a frame that is not complete,
//! so that a body of 16 MiB in a thousand reads costs one pass. Offsets count from the frame's first byte.
//!
//! Never: copies or allocates by a declared length.

use memchr::{memchr, memchr2};

use super::frame::{Command, Line};
use super::telnet;
use crate::reason::{Fault, clipped};

/// Bounds of one frame, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) command: usize,
    pub(crate) line: usize,
    pub(crate) headers: usize,
    pub(crate) head: usize,
    pub(crate) body: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Between,
    Head,
    Body,
}

/// What the bytes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// No whole frame; the first `skip` bytes are of no more use.
    More { skip: usize },
    /// A frame of `len` bytes, its NUL included, begins at `skip`.
    Frame { skip: usize, len: usize },
}

/// The place in the stream.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    phase: Phase,
    /// Where the frame begins in the bytes shown last.
    skip: usize,
    /// Looked at so far.
    at: usize,
    /// First byte of the line that is not complete yet.
    line: usize,
    pub(super) command: Option<Command>,
    pub(super) lines: Vec<Line>,
    /// First byte of the body.
    pub(super) body: usize,
    /// First byte behind the body.
    pub(super) body_end: usize,
    /// The `content-length` header.
    pub(super) length: Option<usize>,
}

impl Scanner {
    /// Looks for the next frame. The caller drops `skip` bytes, and the frame when it has dealt with it; a frame that is
    /// shown again is found again.
    ///
    /// # Errors
    /// The bytes are no frame, or one beyond the limits.
    pub(crate) fn next(&mut self, bytes: &[u8], limits: &Limits) -> Result<Scanned, Fault> {
        self.skip = 0;
        if self.phase == Phase::Between {
            let idle = telnet::idle(bytes);
            if idle.cut {
                return Ok(Scanned::More { skip: idle.len });
            }
            self.skip = idle.len;
            self.start();
        }
        let skip = self.skip;
        let frame = bytes.get(skip..).unwrap_or_default();
        if self.phase == Phase::Head && !self.head(frame, limits)? {
            return Ok(Scanned::More { skip });
        }
        if !self.body(frame, limits)? {
            return Ok(Scanned::More { skip });
        }
        self.phase = Phase::Between;
        Ok(Scanned::Frame { skip, len: self.body_end + 1 })
    }

    /// The receipt the frame that failed asked for, if its header was read already.
    pub(crate) fn receipt<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        let frame = bytes.get(self.skip..)?;
        let line = self.lines.iter().find(|line| line.name(frame) == b"receipt")?;
        std::str::from_utf8(line.value(frame)).ok()
    }

    fn start(&mut self) {
        self.phase = Phase::Head;
        self.at = 0;
        self.line = 0;
        self.command = None;
        self.lines.clear();
        self.length = None;
    }

    /// Reads lines up to the empty one; answers whether it was there.
    fn head(&mut self, frame: &[u8], limits: &Limits) -> Result<bool, Fault> {
        loop {
            let found = memchr2(b'\n', 0, frame.get(self.at..).unwrap_or_default());
            let stop = found.map_or(frame.len(), |distance| self.at + distance);
            if stop > self.bound(limits) {
                return Err(self.endless(limits));
            }
            let Some(byte) = frame.get(stop) else {
                self.at = stop;
                return Ok(false);
            };
            if *byte == 0 {
                return Err(headless(frame.get(self.line..stop).unwrap_or_default(), self.command));
            }
            let mut text = frame.get(self.line..stop).unwrap_or_default();
            if let [before @ .., b'\r'] = text {
                text = before;
            }
            let from = self.line;
            self.at = stop + 1;
            self.line = self.at;
            match self.command {
                None => self.command = Some(Command::parse(text)?),
                Some(_) if text.is_empty() => {
                    self.phase = Phase::Body;
                    self.body = self.at;
                    return Ok(true);
                }
                Some(_) => self.header(from, text, limits)?,
            }
        }
    }

    /// How far the current line may reach. The answer depends on the bytes only, not on how they were cut.
    fn bound(&self, limits: &Limits) -> usize {
        if self.command.is_none() { limits.command } else { limits.head.min(self.line + limits.line) }
    }

    /// What to say about a line that does not end in time.
    fn endless(&self, limits: &Limits) -> Fault {
        if self.command.is_none() {
            let text = "The first line of a frame is a command such as CONNECT, SEND or SUBSCRIBE, in capital letters";
            return Fault::malformed("no command", text);
        }
        if self.line + limits.line <= limits.head {
            let text = format!("A header line may have {} bytes. Put long values into the body", limits.line);
            return Fault::limit("header too long", text);
        }
        let text = format!(
            "Command and headers together may have {} bytes here. Send fewer or shorter",
            limits.head
        );
        Fault::limit("headers too long", text)
    }

    fn header(&mut self, from: usize, text: &[u8], limits: &Limits) -> Result<(), Fault> {
        if self.lines.len() >= limits.headers {
            let text = format!("A frame may have {} headers. Send fewer", limits.headers);
            return Err(Fault::limit("too many headers", text));
        }
        let line = match memchr(b':', text) {
            Some(colon) if colon > 0 => Line::new(from, from + colon, from + text.len()),
            _ => {
                let text = format!(
                    "The line '{}' is no header. A header is name:value; an empty line ends the headers",
                    clipped(&String::from_utf8_lossy(text))
                );
                return Err(Fault::malformed("bad header line", text));
            }
        };
        self.lines.push(line);
        // The first one counts [STOMP 1.2, Repeated Header Entries].
        if self.length.is_none()
            && let Some(value) = text.strip_prefix(b"content-length:")
        {
            self.length = Some(content_length(value, limits.body)?);
        }
        Ok(())
    }

    /// Answers whether the body and its NUL are there.
    fn body(&mut self, frame: &[u8], limits: &Limits) -> Result<bool, Fault> {
        if let Some(length) = self.length {
            // The limit was checked, so this cannot overflow.
            self.body_end = self.body + length;
            return match frame.get(self.body_end) {
                None => Ok(false),
                Some(0) => Ok(true),
                Some(_) => Err(Fault::malformed(
                    "body longer than content-length",
                    format!(
                        "There is no NUL after the {length} bytes that content-length announces. Count bytes, not \
                         characters, or leave content-length out"
                    ),
                )),
            };
        }
        let found = memchr(0, frame.get(self.at..).unwrap_or_default());
        let stop = found.map_or(frame.len(), |distance| self.at + distance);
        if stop.saturating_sub(self.body) > limits.body {
            return Err(body_too_long(limits.body));
        }
        self.at = stop;
        self.body_end = stop;
        Ok(found.is_some())
    }
}

fn content_length(value: &[u8], limit: usize) -> Result<usize, Fault> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        let text = String::from_utf8_lossy(value);
        return Err(Fault::bad_value("content-length", &text, "the number of bytes of the body, in digits"));
    }
    // More digits than a number can have are too many bytes as well.
    let length = digits
        .iter()
        .try_fold(0_usize, |length, digit| length.checked_mul(10)?.checked_add(usize::from(digit - b'0')));
    length.filter(|length| *length <= limit).ok_or_else(|| body_too_long(limit))
}

fn body_too_long(limit: usize) -> Fault {
    Fault::limit("body too long", format!("A body may have {limit} bytes here. Send it in parts"))
}

/// A NUL before the empty line.
fn headless(line: &[u8], command: Option<Command>) -> Fault {
    if command.is_none() && Command::parse(line.strip_suffix(b"\r").unwrap_or(line)).is_err() {
        let text = format!("'{}' is no command", clipped(&String::from_utf8_lossy(line)));
        return Fault::malformed("no command", text);
    }
    Fault::malformed(
        "frame without an empty line",
        "The frame ended inside its headers. After the last header comes an empty line, then the body, then NUL",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { command: 32, line: 100, headers: 5, head: 300, body: 50 };

    /// Feeds `bytes` in pieces of `step`, keeping what is not used, and lists the frames' lengths and bodies.
    fn frames(bytes: &[u8], step: usize) -> Result<Vec<(Command, Vec<u8>)>, Fault> {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        let mut held = Vec::new();
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            loop {
                match scanner.next(&held, &LIMITS)? {
                    Scanned::More { skip } => {
                        held.drain(..skip);
                        break;
                    }
                    Scanned::Frame { skip, len } => {
                        held.drain(..skip);
                        let body = held[scanner.body..scanner.body_end].to_vec();
                        found.push((scanner.command.unwrap(), body));
                        held.drain(..len);
                    }
                }
            }
        }
        Ok(found)
    }

    fn check(bytes: &[u8], expected: &[(Command, &[u8])]) {
        let expected: Vec<_> = expected.iter().map(|(command, body)| (*command, body.to_vec())).collect();
        for step in 1..=bytes.len() {
            assert_eq!(frames(bytes, step).unwrap(), expected, "{bytes:?} by {step}");
        }
    }

    fn check_fault(bytes: &[u8], message: &str) {
        let whole = frames(bytes, bytes.len()).unwrap_err();
        assert_eq!(whole.message, message, "{}", whole.text);
        for step in 1..bytes.len() {
            assert_eq!(frames(bytes, step).unwrap_err(), whole, "by {step}");
        }
    }

    #[test]
    fn frames_however_they_are_cut() {
        check(b"SEND\na:b\n\nbody\0", &[(Command::Send, b"body")]);
        check(b"\r\n\0SEND\r\na:b\r\n\r\nhello\r\n\0\r\n", &[(Command::Send, b"hello\r\n")]);
        check(b"SEND\ncontent-length:3\n\n\0\0\0\0", &[(Command::Send, b"\0\0\0")]);
        check(b"SEND\ncontent-length: 1 \n\nx\0\nACK\n\n\0", &[(Command::Send, b"x"), (Command::Ack, b"")]);
        check(b"SEND\ncontent-length:1\ncontent-length:9\n\nx\0", &[(Command::Send, b"x")]);
        check(b"\xff\xfb\x01CONNECT\n\n\0", &[(Command::Connect, b"")]);
    }

    #[test]
    fn what_is_no_frame() {
        check_fault(b"send\n\n\0", "no command");
        check_fault(b"GET / HTTP/1.1 and more than 32 bytes\n", "no command");
        check_fault(b"SEND\0", "frame without an empty line");
        check_fault(b"SEND\nreceipt:1\n\0", "frame without an empty line");
        check_fault(b"SEND\nnocolon\n\n\0", "bad header line");
        check_fault(b"SEND\n:novalue\n\n\0", "bad header line");
        check_fault(b"SEND\ncontent-length:x\n\n\0", "bad header content-length");
        check_fault(b"SEND\ncontent-length:-1\n\n\0", "bad header content-length");
        check_fault(b"SEND\ncontent-length:2\n\nabc\0", "body longer than content-length");
    }

    #[test]
    fn limits_hold_before_the_bytes_are_there() {
        check_fault(b"SEND\ncontent-length:51\n", "body too long");
        check_fault(b"SEND\ncontent-length:99999999999999999999999\n", "body too long");
        check_fault(&[b"SEND\n\n".as_slice(), &[b'x'; 51]].concat(), "body too long");
        check_fault(&[b"SEND\nn:".as_slice(), &[b'x'; 99]].concat(), "header too long");
        check_fault(b"SEND\na:1\nb:2\nc:3\nd:4\ne:5\nf:6\n", "too many headers");
        let line = [b"n:".as_slice(), &[b'x'; 90], b"\n"].concat();
        check_fault(&[b"SEND\n".as_slice(), &line, &line, &line, &line].concat(), "headers too long");
    }
}
