//! Where the sections of a message begin and end (AMQP 1.0 part 3.2), found without decoding them.
//!
//! Header and delivery annotations are for the hop; everything behind them is kept as received and passed on untouched.
//!
//! Never: looks into properties or annotations; that happens only when another protocol asks.

use super::CodecError;
use super::reader::{Fields, Reader};

type Result<T> = std::result::Result<T, CodecError>;

pub(crate) const HEADER: u8 = 0x70;
const DELIVERY_ANNOTATIONS: u8 = 0x71;
pub(crate) const MESSAGE_ANNOTATIONS: u8 = 0x72;
pub(crate) const PROPERTIES: u8 = 0x73;
pub(crate) const APPLICATION_PROPERTIES: u8 = 0x74;
pub(crate) const DATA: u8 = 0x75;
const AMQP_SEQUENCE: u8 = 0x76;
pub(crate) const AMQP_VALUE: u8 = 0x77;
const FOOTER: u8 = 0x78;

/// A message in sections. The encoded values are without their descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sections<'a> {
    pub(crate) durable: bool,
    pub(crate) priority: Option<u8>,
    /// Milliseconds.
    pub(crate) ttl: Option<u32>,
    /// From the message annotations to the footer, as received.
    pub(crate) kept: &'a [u8],
    pub(crate) annotations: Option<&'a [u8]>,
    pub(crate) properties: Option<&'a [u8]>,
    pub(crate) application: Option<&'a [u8]>,
    pub(crate) body: Body<'a>,
    /// What follows the message annotations.
    pub(crate) bare: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// One data section, or a value that is binary (bytes) or a string or symbol (text).
    Bytes { bytes: &'a [u8], text: bool },
    /// Several data sections, encoded: their concatenation is the body.
    Several(&'a [u8]),
    /// A value of another type, or sequences: the encoded sections are the body.
    Encoded(&'a [u8]),
}

/// Finds the sections.
pub(crate) fn scan(message: &[u8]) -> Result<Sections<'_>> {
    let mut reader = Reader::new(message);
    let mut sections = Sections {
        durable: false,
        priority: None,
        ttl: None,
        kept: &[],
        annotations: None,
        properties: None,
        application: None,
        body: Body::Bytes { bytes: &[], text: false },
        bare: &[],
    };
    let mut last = 0u8;
    let mut body_at: &[u8] = &[];
    while !reader.is_empty() {
        let at = reader.rest();
        let descriptor = reader.descriptor()?;
        let code = u8::try_from(descriptor).map_err(|_| CodecError::Descriptor(descriptor))?;
        if !may_follow(last, code) {
            return Err(CodecError::SectionOrder);
        }
        if code >= MESSAGE_ANNOTATIONS && last < MESSAGE_ANNOTATIONS {
            sections.kept = at;
        }
        if code > MESSAGE_ANNOTATIONS && last <= MESSAGE_ANNOTATIONS {
            sections.bare = at;
        }
        match code {
            HEADER => read_header(&mut sections, reader.list()?)?,
            MESSAGE_ANNOTATIONS => sections.annotations = Some(reader.raw()?),
            PROPERTIES => sections.properties = Some(reader.raw()?),
            APPLICATION_PROPERTIES => sections.application = Some(reader.raw()?),
            DATA | AMQP_SEQUENCE | AMQP_VALUE => {
                if last < DATA {
                    body_at = at;
                }
                let again = last == code;
                sections.body = body(&mut reader, code, again, body_at)?;
            }
            DELIVERY_ANNOTATIONS | FOOTER => reader.skip()?,
            _ => return Err(CodecError::Descriptor(descriptor)),
        }
        last = code;
    }
    Ok(sections)
}

fn may_follow(last: u8, code: u8) -> bool {
    let body = DATA..=AMQP_VALUE;
    if body.contains(&last) && body.contains(&code) {
        last == code && code != AMQP_VALUE
    } else {
        code > last
    }
}

fn read_header(sections: &mut Sections<'_>, mut fields: Fields<'_>) -> Result<()> {
    sections.durable = fields.boolean()?.unwrap_or(false);
    sections.priority = fields.ubyte()?;
    sections.ttl = fields.uint()?;
    Ok(())
}

/// Reads one body section; `first` begins at the first of them.
fn body<'a>(reader: &mut Reader<'a>, code: u8, again: bool, first: &'a [u8]) -> Result<Body<'a>> {
    let value_at = reader.rest();
    let found = match (code, value_at.first()) {
        (DATA, _) => match reader.text_or_binary()? {
            (0xa0 | 0xb0, bytes) => Some(Body::Bytes { bytes, text: false }),
            (other, _) => return Err(CodecError::WrongType(other)),
        },
        (AMQP_VALUE, Some(0x40)) => {
            reader.skip()?;
            Some(Body::Bytes { bytes: &[], text: false })
        }
        (AMQP_VALUE, Some(0xa0 | 0xb0 | 0xa1 | 0xb1 | 0xa3 | 0xb3)) => {
            let (code, bytes) = reader.text_or_binary()?;
            let text = !matches!(code, 0xa0 | 0xb0);
            if text && std::str::from_utf8(bytes).is_err() {
                return Err(CodecError::Text);
            }
            Some(Body::Bytes { bytes, text })
        }
        _ => {
            reader.skip()?;
            None
        }
    };
    let encoded = first.get(..first.len() - reader.rest().len()).unwrap_or_default();
    Ok(match found {
        Some(_) if again => Body::Several(encoded),
        Some(body) => body,
        None => Body::Encoded(encoded),
    })
}

/// The concatenation of several data sections that [`scan`] has found.
pub(crate) fn concatenate(sections: &[u8], into: &mut Vec<u8>) {
    let mut reader = Reader::new(sections);
    while !reader.is_empty() {
        let part = reader.descriptor().and_then(|_| reader.text_or_binary());
        let Ok((_, part)) = part else { return };
        into.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &[u8]) -> Result<(&[u8], Body<'_>)> {
        scan(message).map(|sections| (sections.kept, sections.body))
    }

    const HEAD: &[u8] = &[0x00, 0x53, 0x70, 0xc0, 0x04, 0x02, 0x41, 0x50, 0x07];
    const NOTES: &[u8] = &[0x00, 0x53, 0x72, 0xc1, 0x01, 0x00];
    const BODY: &[u8] = &[0x00, 0x53, 0x75, 0xa0, 0x02, b'h', b'i'];

    #[test]
    fn the_hop_s_sections_are_cut_off() {
        let message = [HEAD, NOTES, BODY].concat();
        let sections = scan(&message).unwrap();
        assert!(sections.durable);
        assert_eq!(sections.priority, Some(7));
        assert_eq!(sections.kept, [NOTES, BODY].concat());
        assert_eq!(sections.bare, BODY);
        assert_eq!(sections.body, Body::Bytes { bytes: b"hi", text: false });
    }

    #[test]
    fn bodies_of_each_kind() {
        let bytes = |bytes, text| Body::Bytes { bytes, text };
        assert_eq!(check(&[0x00, 0x53, 0x77, 0xa1, 1, b'x']).unwrap().1, bytes(b"x", true));
        assert_eq!(check(&[0x00, 0x53, 0x77, 0x40]).unwrap().1, bytes(b"", false));
        let number = [0x00, 0x53, 0x77, 0x54, 5];
        assert_eq!(check(&number).unwrap().1, Body::Encoded(&number));
        let twice = [BODY, BODY].concat();
        assert_eq!(check(&twice).unwrap().1, Body::Several(&twice));
        let mut joined = Vec::new();
        concatenate(&twice, &mut joined);
        assert_eq!(joined, b"hihi");
        assert_eq!(check(b"").unwrap(), (&b""[..], bytes(b"", false)));
    }

    #[test]
    fn order_is_checked() {
        // [AMQP 3.2]
        assert_eq!(check(&[BODY, HEAD].concat()), Err(CodecError::SectionOrder));
        assert_eq!(check(&[HEAD, HEAD].concat()), Err(CodecError::SectionOrder));
        let value = [0x00, 0x53, 0x77, 0x40];
        assert_eq!(check(&[&value[..], &value[..]].concat()), Err(CodecError::SectionOrder));
        assert_eq!(check(&[BODY, &value[..]].concat()), Err(CodecError::SectionOrder));
        assert_eq!(check(&[0x00, 0x53, 0x10, 0x45]), Err(CodecError::Descriptor(0x10)));
    }
}
