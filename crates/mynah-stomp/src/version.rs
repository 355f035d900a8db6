//! The three versions, and how client and server agree on one.

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V1_0,
    V1_1,
    V1_2,
}

impl Version {
    /// What an ERROR lists when nothing is in common [STOMP 1.2, Protocol Negotiation].
    pub const ALL_TEXT: &'static str = "1.0,1.1,1.2";

    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// Shown to operators.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::V1_0 => "STOMP 1.0",
            Self::V1_1 => "STOMP 1.1",
            Self::V1_2 => "STOMP 1.2",
        }
    }

    /// The highest version in the client's `accept-version`: any order, blanks allowed, unknown members ignored. A
    /// client that sends no such header speaks 1.0.
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Option<Self> {
        let Some(accept) = accept else { return Some(Self::V1_0) };
        let offered = accept.split(',').filter_map(|text| match text.trim() {
            "1.0" => Some(Self::V1_0),
            "1.1" => Some(Self::V1_1),
            "1.2" => Some(Self::V1_2),
            _ => None,
        });
        offered.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version() {
        let check = |accept, expected| assert_eq!(Version::negotiate(accept), expected, "{accept:?}");
        check(None, Some(Version::V1_0));
        check(Some("1.0"), Some(Version::V1_0));
        check(Some("1.0,1.1,2.0"), Some(Version::V1_1));
        check(Some("1.2, 1.1,1.0"), Some(Version::V1_2));
        check(Some("2.1,99"), None);
        check(Some(""), None);
    }
}
