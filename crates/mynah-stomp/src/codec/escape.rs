//! Escapes in header names and values, a table for each version [STOMP 1.2, Value Encoding].
//!
//! | character | 1.0 | 1.1 | 1.2 | CONNECT and CONNECTED |
//! |---|---|---|---|---|
//! | LF | a blank | `\n` | `\n` | a blank |
//! | CR | a blank | a blank | `\r` | a blank |
//! | `:` | as it is | `\c` | `\c` | as it is |
//! | `\` | as it is | `\\` | `\\` | as it is |
//! | NUL | left out | left out | left out | left out |

use std::borrow::Cow;

use bytes::BytesMut;
use memchr::{memchr, memchr3};

use crate::version::Version;

/// Which table applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escape {
    /// 1.0, and CONNECT and CONNECTED in every version.
    None,
    V1_1,
    V1_2,
}

impl From<Version> for Escape {
    fn from(version: Version) -> Self {
        match version {
            Version::V1_0 => Self::None,
            Version::V1_1 => Self::V1_1,
            Version::V1_2 => Self::V1_2,
        }
    }
}

/// Appends a header name or value.
pub(crate) fn escape(table: Escape, text: &str, out: &mut BytesMut) {
    let bytes = text.as_bytes();
    if memchr3(b'\n', b'\r', 0, bytes).is_none()
        && (table == Escape::None || memchr::memchr2(b':', b'\\', bytes).is_none())
    {
        out.extend_from_slice(bytes);
        return;
    }
    for &byte in bytes {
        match (byte, table) {
            (0, _) => {}
            (b'\n' | b'\r', Escape::None) | (b'\r', Escape::V1_1) => out.extend_from_slice(b" "),
            (b'\n', _) => out.extend_from_slice(b"\\n"),
            (b'\r', Escape::V1_2) => out.extend_from_slice(b"\\r"),
            (b':', Escape::V1_1 | Escape::V1_2) => out.extend_from_slice(b"\\c"),
            (b'\\', Escape::V1_1 | Escape::V1_2) => out.extend_from_slice(b"\\\\"),
            _ => out.extend_from_slice(&[byte]),
        }
    }
}

/// The text behind the escapes; `None` if there is one the version does not define, which is fatal [STOMP 1.2, Value
/// Encoding].
pub(crate) fn unescape(table: Escape, raw: &str) -> Option<Cow<'_, str>> {
    if table == Escape::None || memchr(b'\\', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match (chars.next(), table) {
            (Some('n'), _) => '\n',
            (Some('c'), _) => ':',
            (Some('\\'), _) => '\\',
            (Some('r'), Escape::V1_2) => '\r',
            _ => return None,
        });
    }
    Some(Cow::Owned(text))
}

/// Appends header lines that are escaped for 1.2 in the form another version wants.
pub(crate) fn transcode(table: Escape, lines: &[u8], out: &mut BytesMut) {
    if table == Escape::V1_2 || memchr(b'\\', lines).is_none() {
        out.extend_from_slice(lines);
        return;
    }
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some((name, value)) = line.trim_end_matches('\n').split_once(':') else { continue };
        let (Some(name), Some(value)) = (unescape(Escape::V1_2, name), unescape(Escape::V1_2, value)) else {
            continue;
        };
        super::write_header(table, &name, &value, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(table: Escape, text: &str, expected: &str) {
        let mut out = BytesMut::new();
        escape(table, text, &mut out);
        assert_eq!(out, expected.as_bytes(), "{table:?} {text:?}");
    }

    #[test]
    fn each_version_has_its_table() {
        check(Escape::None, "a:b\\c\r\nd", "a:b\\c  d");
        check(Escape::V1_1, "a:b\\c\r\nd", "a\\cb\\\\c \\nd");
        check(Escape::V1_2, "a:b\\c\r\nd", "a\\cb\\\\c\\r\\nd");
        check(Escape::V1_2, "a\0b", "ab");
    }

    #[test]
    fn an_undefined_escape_is_no_text() {
        assert_eq!(unescape(Escape::V1_1, r"a\r"), None);
        assert_eq!(unescape(Escape::V1_2, r"a\r").as_deref(), Some("a\r"));
        assert_eq!(unescape(Escape::V1_2, r"a\t"), None);
        assert_eq!(unescape(Escape::V1_2, r"a\"), None);
        assert_eq!(unescape(Escape::None, r"a\t").as_deref(), Some(r"a\t"));
    }

    #[test]
    fn lines_for_1_2_become_lines_for_the_others() {
        let lines = b"k\\ca:x\\ny\nplain:z\n";
        let check = |table, expected: &str| {
            let mut out = BytesMut::new();
            transcode(table, lines, &mut out);
            assert_eq!(out, expected.as_bytes());
        };
        check(Escape::V1_2, "k\\ca:x\\ny\nplain:z\n");
        check(Escape::V1_1, "k\\ca:x\\ny\nplain:z\n");
        check(Escape::None, "k_a:x y\nplain:z\n");
    }
}
