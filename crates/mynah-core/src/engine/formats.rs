//! What the protocols can do with what they once encoded, by the names of their formats.

use std::sync::Arc;

use crate::message::{Decode, Format};
use crate::publish::PublishRef;
use crate::wire::{Run, Wire};

/// How a subscription's wire format writes a message.
pub type Encode = fn(&Wire, &PublishRef<'_>, &mut Run);

/// One format of a protocol.
#[derive(Debug, Clone, Copy)]
pub struct FormatEntry {
    pub format: Format,
    /// Of properties kept in it.
    pub decode: Option<Decode>,
    /// Of subscriptions of this wire format.
    pub encode: Option<Encode>,
}

/// All formats this process knows. What was stored in another one keeps its body and loses its properties.
#[derive(Debug, Clone, Default)]
pub struct Formats(Arc<[FormatEntry]>);

impl Formats {
    #[must_use]
    pub fn new(entries: Vec<FormatEntry>) -> Self {
        Self(entries.into())
    }

    pub(super) fn decoder(&self, name: &str) -> Option<(Format, Decode)> {
        self.0.iter().find_map(|entry| Some((entry.format, entry.decode?)).filter(|it| it.0.0 == name))
    }

    pub(super) fn encoder(&self, name: &str) -> Option<(Format, Encode)> {
        self.0.iter().find_map(|entry| Some((entry.format, entry.encode?)).filter(|it| it.0.0 == name))
    }
}
