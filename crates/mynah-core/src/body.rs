//! The bytes of a message: its body, and the sender's encoding of its properties.
//!
//! Never: knows what either of them means.

use std::sync::Arc;

use bytes::Bytes;

/// From so many bytes on a body has an allocation of its own: bodies are often a power of two, as are the blocks of the allocator, and
/// with anything beside it such a body would take the next larger block.
const ALONE_MIN: usize = 4096;

/// The bytes of a message, with the sender's encoding of its properties if there is one; in one allocation while the body is small.
/// A body that lies inside the encoding (a bare AMQP 1.0 message) is there once.
#[derive(Debug, Clone)]
pub struct Body {
    bytes: Bytes,
    encoded: Encoded,
    start: usize,
    end: usize,
}

#[derive(Debug, Clone)]
enum Encoded {
    /// The first bytes of all.
    Within(usize),
    Apart(Arc<[u8]>),
}

impl Default for Body {
    fn default() -> Self {
        Self { bytes: Bytes::new(), encoded: Encoded::Within(0), start: 0, end: 0 }
    }
}

impl Body {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let (bytes, end) = (Bytes::copy_from_slice(bytes), bytes.len());
        Self { bytes, encoded: Encoded::Within(0), start: 0, end }
    }

    /// `body` may be a part of `encoded`.
    #[must_use]
    pub fn with_encoded(encoded: &[u8], body: &[u8]) -> Self {
        if let Some(start) = start_inside(encoded, body) {
            let (bytes, within) = (Bytes::copy_from_slice(encoded), encoded.len());
            return Self { bytes, encoded: Encoded::Within(within), start, end: start + body.len() };
        }
        if body.len() >= ALONE_MIN && !encoded.is_empty() {
            return Self { encoded: Encoded::Apart(encoded.into()), ..Self::new(body) };
        }
        let mut both = Vec::with_capacity(encoded.len() + body.len());
        both.extend_from_slice(encoded);
        both.extend_from_slice(body);
        let (start, end) = (encoded.len(), both.len());
        Self { bytes: both.into(), encoded: Encoded::Within(start), start, end }
    }

    /// The sender's encoding of the properties.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        match &self.encoded {
            Encoded::Within(length) => self.bytes.get(..*length).unwrap_or_default(),
            Encoded::Apart(encoded) => encoded,
        }
    }

    /// Where in the encoding the body begins, if it is a part of it.
    #[must_use]
    pub fn inside(&self) -> Option<usize> {
        match self.encoded {
            Encoded::Within(length) => (self.start < length).then_some(self.start),
            Encoded::Apart(_) => None,
        }
    }

    /// A part of the body, not copied; of the encoding, not copied if the two stand together.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        match start_inside(&self.bytes, part) {
            Some(start) => self.bytes.slice(start..start + part.len()),
            None => Bytes::copy_from_slice(part),
        }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let apart = match &self.encoded {
            Encoded::Within(_) => 0,
            Encoded::Apart(encoded) => encoded.len(),
        };
        self.bytes.len() + apart
    }

    /// Other bytes of the same length, in the same memory if nobody else holds it.
    pub(crate) fn renew(&mut self, bytes: &[u8]) {
        let old = std::mem::take(self);
        *self = match old.bytes.try_into_mut() {
            Ok(mut same) if same.len() == bytes.len() => {
                same.copy_from_slice(bytes);
                Self { bytes: same.freeze(), encoded: Encoded::Within(0), start: 0, end: bytes.len() }
            }
            // Of another length it would need a second allocation to be shared.
            Ok(_) | Err(_) => Self::new(bytes),
        };
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Where in the encoding the body begins, if it is a part of it.
pub(crate) fn start_inside(encoded: &[u8], body: &[u8]) -> Option<usize> {
    let start = (body.as_ptr() as usize).wrapping_sub(encoded.as_ptr() as usize);
    let inside = start.checked_add(body.len()).is_some_and(|end| end <= encoded.len());
    (inside && !body.is_empty()).then_some(start)
}

pub(crate) fn size_of_both(encoded: &[u8], body: &[u8]) -> usize {
    encoded.len() + if start_inside(encoded, body).is_some() { 0 } else { body.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_and_encoding_are_what_they_were_however_they_stand() {
        let bytes = |length: usize| (0..=u8::MAX).cycle().take(length).collect::<Vec<u8>>();
        for encoded in [0, 1, 100, ALONE_MIN].map(bytes) {
            for body in [0, 1, ALONE_MIN - 1, ALONE_MIN, 3 * ALONE_MIN].map(bytes) {
                let made = Body::with_encoded(&encoded, &body);
                for made in [made.clone(), made] {
                    assert_eq!((made.encoded(), &*made), (&*encoded, &*body));
                    assert_eq!((made.size(), made.inside()), (encoded.len() + body.len(), None));
                    assert_eq!(
                        (made.share(made.encoded()), made.share(&made)),
                        (encoded.clone().into(), body.clone().into())
                    );
                }
            }
        }
    }

    #[test]
    fn a_large_body_takes_no_more_than_itself() {
        let made = Body::with_encoded(b"properties", &[7; ALONE_MIN]);
        assert_eq!(made.bytes.len(), ALONE_MIN);
        assert!(std::ptr::eq(made.share(&made).as_ptr(), made.as_ptr()), "copied");
        let inside = bytes_with_body_inside();
        let made = Body::with_encoded(&inside, &inside[10..]);
        assert_eq!((made.bytes.len(), made.inside()), (inside.len(), Some(10)));
    }

    fn bytes_with_body_inside() -> Vec<u8> {
        vec![3; 2 * ALONE_MIN]
    }
}
