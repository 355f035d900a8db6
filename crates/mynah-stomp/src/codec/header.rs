//! The few header values that have a grammar of their own.

use nom::character::complete::{char, digit1, space0};
use nom::combinator::{all_consuming, map_res};
use nom::sequence::{delimited, separated_pair};
use nom::{IResult, Parser as _};

fn digits<T: std::str::FromStr>(input: &str) -> IResult<&str, T> {
    map_res(delimited(space0, digit1, space0), str::parse).parse(input)
}

/// A number in digits, nothing else; blanks around it are forgiven, as people type them.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    all_consuming(digits).parse(text).ok().map(|(_, number)| number)
}

/// `heart-beat:<what it can do>,<what it wants>` in milliseconds.
pub(crate) fn heart_beat(text: &str) -> Option<(u32, u32)> {
    all_consuming(separated_pair(digits, char(','), digits)).parse(text).ok().map(|(_, pair)| pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_heart_beats() {
        assert_eq!(number::<u8>(" 9"), Some(9));
        assert_eq!(number::<u8>("256"), None);
        assert_eq!(number::<u32>("-1"), None);
        assert_eq!(number::<u32>("+1"), None);
        assert_eq!(number::<u64>(""), None);
        assert_eq!(heart_beat("0,10000"), Some((0, 10_000)));
        assert_eq!(heart_beat("1, 2"), Some((1, 2)));
        assert_eq!(heart_beat("1"), None);
        assert_eq!(heart_beat("1,2,3"), None);
        assert_eq!(heart_beat("-1,2"), None);
    }
}
