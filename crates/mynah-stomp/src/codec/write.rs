//! Header lines and numbers, appended without allocating.

use bytes::BytesMut;

use super::escape::{Escape, escape};

/// Appends `name:value` and LF, escaped. A colon in a name becomes `_` where there are no escapes, as it would end the name.
pub(crate) fn header(table: Escape, name: &str, value: &str, out: &mut BytesMut) {
    if table == Escape::None && name.contains(':') {
        escape(table, &name.replace(':', "_"), out);
    } else {
        escape(table, name, out);
    }
    out.extend_from_slice(b":");
    escape(table, value, out);
    out.extend_from_slice(b"\n");
}

/// Appends a header whose name and value need no escapes: `name` ends with its colon.
pub(crate) fn plain_header(name: &str, value: u64, out: &mut BytesMut) {
    out.extend_from_slice(name.as_bytes());
    number(value, out);
    out.extend_from_slice(b"\n");
}

/// Appends a number in digits.
pub(crate) fn number(mut value: u64, out: &mut BytesMut) {
    // 20 digits are enough for 2^64 - 1.
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        used += 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_digits() {
        let check = |value: u64| {
            let mut out = BytesMut::new();
            number(value, &mut out);
            assert_eq!(out, value.to_string().as_bytes());
        };
        [0, 1, 9, 10, 99, 100, 12_345, u64::MAX].into_iter().for_each(check);
    }
}
