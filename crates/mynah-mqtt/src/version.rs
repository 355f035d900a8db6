//! The protocol versions and the table of what differs between them.
//!
//! Never: a packet; the codec asks here what a version allows.

/// A protocol version, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];

    /// The protocol level in CONNECT.
    #[must_use]
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name in CONNECT.
    #[must_use]
    pub fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// What operators are shown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::V31 => "MQTT 3.1",
            Self::V311 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5.0",
        }
    }

    /// Packets carry properties and reason codes.
    #[must_use]
    pub fn has_properties(self) -> bool {
        self == Self::V5
    }

    /// Reserved bits must have their prescribed value [MQTT-2.1.3-1, MQTT-3.1.2-3]; in 3.1 they were free, and clients of
    /// that time leave anything in them.
    #[must_use]
    pub fn checks_reserved_bits(self) -> bool {
        self != Self::V31
    }

    /// The version in a wire class. 3.1 and 3.1.1 encode PUBLISH to the same bytes, so they are one class.
    #[must_use]
    pub fn wire(self) -> u8 {
        match self {
            Self::V31 | Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}
