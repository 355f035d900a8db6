//! Sizes and durations as people write them: `16MiB`, `60s`, `1h30m`; a bare number is bytes or seconds.
//!
//! Decimal and binary prefixes differ on purpose (`kB` = 1,000, `KiB` = 1,024): who writes one means it. `K`, `M` and `G`
//! alone are binary, as in most brokers' files.
//!
//! Never: rounds; a value that does not fit is refused.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// A length of time in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

const KIB: u64 = 1024;
const SIZE_UNITS: &[(&str, u64)] = &[
    ("gib", KIB * KIB * KIB),
    ("mib", KIB * KIB),
    ("kib", KIB),
    ("g", KIB * KIB * KIB),
    ("m", KIB * KIB),
    ("k", KIB),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
    ("", 1),
];
const SPAN_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1), ("", 1_000)];

impl Size {
    pub(crate) const fn kib(n: u64) -> Self {
        Self(n * KIB)
    }

    pub(crate) const fn mib(n: u64) -> Self {
        Self(n * KIB * KIB)
    }

    /// As `usize`, saturating: a 32-bit machine cannot hold more anyway.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As `u32`, saturating: the fields of the wire that hold it are no wider.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split_number(text.trim())?;
        Some(Self(number.checked_mul(unit_of(unit.trim(), SIZE_UNITS)?)?))
    }
}

impl Span {
    pub(crate) const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut total_ms = 0_u64;
        loop {
            let (number, tail) = split_number(rest)?;
            let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, next) = tail.split_at_checked(unit_len)?;
            total_ms = total_ms.checked_add(number.checked_mul(unit_of(unit.trim(), SPAN_UNITS)?)?)?;
            rest = next;
            if rest.is_empty() {
                return Some(Self(Duration::from_millis(total_ms)));
            }
        }
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

fn unit_of(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [("GiB", KIB * KIB * KIB), ("MiB", KIB * KIB), ("KiB", KIB)]
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor))
        {
            Some((name, factor)) => write!(f, "{}{name}", ms / factor),
            None if ms == 0 => f.write_str("0s"),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SizeVisitor;
struct SpanVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 64KiB, 16MiB or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Size, E> {
        Ok(Size(v))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Size, E> {
        Size::parse(v).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
    }
}

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 500ms, 60s, 5m, 1h or a number of seconds")
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Span, E> {
        let whole_ms =
            v.checked_mul(1000).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(v), &self))?;
        Ok(Span(Duration::from_millis(whole_ms)))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Span, E> {
        Span::parse(v).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("64KiB", 65_536),
            ("16 MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("1kB", 1000),
            ("3b", 3),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "16MiX", "99999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "1y", "-5s", "99999999999999999999s"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for size in [Size(0), Size(1), Size(1000), Size::kib(64), Size::mib(16), Size(3 << 30)] {
            assert_eq!(Size::parse(&size.to_string()), Some(size), "{size}");
        }
        for ms in [0, 1, 250, 1000, 60_000, 3_600_000, 86_400_000, 90_061_001] {
            let span = Span(Duration::from_millis(ms));
            assert_eq!(Span::parse(&span.to_string()), Some(span), "{span}");
        }
    }
}
