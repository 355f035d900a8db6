//! Topic aliases towards a client that takes them [MQTT 5.0 3.3.2.3.4]; those of the client are in [`crate::inbound`].
//!
//! Never: changes what an alias stands for; that the first topics keep theirs is enough for telemetry.

use std::collections::HashMap;

use mynah_core::AddressRef;

use crate::translate::Alias;

/// Aliases of topics towards a client that takes them. The first topics get one and keep it: telemetry repeats few of them.
#[derive(Debug)]
pub(crate) struct Aliases {
    max: u16,
    known: HashMap<Box<str>, u16>,
}

impl Aliases {
    /// Nothing, if none may be used [MQTT-3.1.2-27].
    pub(crate) fn new(max: u16) -> Option<Box<Self>> {
        (max > 0).then(|| Box::new(Self { max, known: HashMap::new() }))
    }

    /// What the next copy of a topic is sent with.
    pub(crate) fn alias_of(&self, address: AddressRef<'_>) -> Alias {
        // Only topics: they are what repeats.
        let AddressRef::Topic(topic) = address else { return Alias::None };
        if let Some(alias) = self.known.get(topic) {
            return Alias::Known(*alias);
        }
        match u16::try_from(self.known.len()) {
            Ok(count) if count < self.max => Alias::New(count + 1),
            _ => Alias::None,
        }
    }

    /// The copy was sent: the receiver knows the alias.
    pub(crate) fn learn(&mut self, address: AddressRef<'_>, alias: u16) {
        if let AddressRef::Topic(topic) = address {
            self.known.insert(topic.into(), alias);
        }
    }
}
