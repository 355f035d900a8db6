//! A publish in borrowed terms: what a protocol hands to the broker without owning anything.

use crate::address::AddressRef;
use crate::body::size_of_both;
use crate::message::{Decode, Format, Header, Properties, no_properties};

/// A transaction's number, chosen by its connection and unique there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub u64);

/// The properties of a publish in whichever form the protocol has them at hand.
#[derive(Debug, Clone, Copy)]
pub enum ContentRef<'a> {
    None,
    Decoded(&'a Properties),
    /// The protocol's own encoding, validated, with the function that decodes it when another protocol asks.
    Encoded {
        format: Format,
        bytes: &'a [u8],
        decode: Decode,
    },
}

/// One publish. Everything borrows: nothing is copied unless a target must keep it.
#[derive(Debug, Clone, Copy)]
pub struct PublishRef<'a> {
    pub address: AddressRef<'a>,
    pub header: Header,
    pub content: ContentRef<'a>,
    pub body: &'a [u8],
    /// The publisher wants it back when no queue takes it: answered by `Reply::Returned`.
    pub mandatory: bool,
    pub transaction: Option<TransactionId>,
    /// Set: the same as [`crate::protocol::Host::note`] with this key and no bytes, in one with keeping the message: either both
    /// survive a crash or none.
    pub note: Option<u32>,
    /// To be published so many milliseconds later; 0 is now.
    pub delay_ms: u64,
}

impl<'a> PublishRef<'a> {
    #[must_use]
    pub fn new(address: AddressRef<'a>, body: &'a [u8]) -> Self {
        Self {
            address,
            header: Header::default(),
            content: ContentRef::None,
            body,
            mandatory: false,
            transaction: None,
            note: None,
            delay_ms: 0,
        }
    }

    /// Runs `f` on the decoded properties; decodes on the spot if they are encoded.
    pub fn with_properties<R>(&self, f: impl FnOnce(&Properties) -> R) -> R {
        match self.content {
            ContentRef::None => f(no_properties()),
            ContentRef::Decoded(properties) => f(properties),
            ContentRef::Encoded { bytes, decode, .. } => f(&decode(bytes)),
        }
    }

    /// The sender's own encoding, if it is `format`.
    #[must_use]
    pub fn original(&self, format: Format) -> Option<&'a [u8]> {
        match self.content {
            ContentRef::Encoded { format: own, bytes, .. } if own == format => Some(bytes),
            ContentRef::None | ContentRef::Decoded(_) | ContentRef::Encoded { .. } => None,
        }
    }

    /// Bytes a target would keep. A body inside the encoding is counted once.
    #[must_use]
    pub fn size(&self) -> usize {
        match self.content {
            ContentRef::None => self.body.len(),
            ContentRef::Decoded(_) => self.body.len() + size_of::<Properties>(),
            ContentRef::Encoded { bytes, .. } => size_of_both(bytes, self.body),
        }
    }
}
