//! Sets of small numbers: the positions that a match has reached at the same time.
//!
//! Because a match carries sets, it visits each node once, however many ways lead there: a filter such as `#/a/#/a` costs
//! words times nodes, never more. Up to 127 positions a set is one integer on the stack; deeper names, which the protocols'
//! edges refuse, are still right, but allocate.

/// A set of positions `0..=end`.
pub(crate) trait Positions: Clone + Default {
    fn add(&mut self, at: usize);
    fn remove(&mut self, at: usize);
    fn has(&self, at: usize) -> bool;
    fn lowest(&self) -> Option<usize>;
    /// All from `at` to `end`.
    fn range(at: usize, end: usize) -> Self;
    /// Each position one higher; what would pass `end` is left out.
    fn advanced(&self, end: usize) -> Self;

    fn only(at: usize) -> Self {
        let mut set = Self::default();
        set.add(at);
        set
    }

    fn is_empty(&self) -> bool {
        self.lowest().is_none()
    }
}

macro_rules! integer_positions {
    ($integer:ty) => {
        impl Positions for $integer {
            fn add(&mut self, at: usize) {
                *self |= 1 << at;
            }

            fn remove(&mut self, at: usize) {
                *self &= !(1 << at);
            }

            fn has(&self, at: usize) -> bool {
                *self >> at & 1 == 1
            }

            fn lowest(&self) -> Option<usize> {
                (*self != 0).then_some(self.trailing_zeros() as usize)
            }

            fn range(at: usize, end: usize) -> Self {
                (Self::MAX << at) & (Self::MAX >> (Self::BITS as usize - 1 - end))
            }

            fn advanced(&self, end: usize) -> Self {
                (*self << 1) & Self::range(0, end)
            }
        }
    };
}

integer_positions!(u64);
integer_positions!(u128);

/// The highest position an integer set can hold.
pub(crate) const FEW: usize = 63;
pub(crate) const MANY: usize = 127;

/// Any number of positions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unbounded(std::collections::BTreeSet<usize>);

impl Positions for Unbounded {
    fn add(&mut self, at: usize) {
        self.0.insert(at);
    }

    fn remove(&mut self, at: usize) {
        self.0.remove(&at);
    }

    fn has(&self, at: usize) -> bool {
        self.0.contains(&at)
    }

    fn lowest(&self) -> Option<usize> {
        self.0.first().copied()
    }

    fn range(at: usize, end: usize) -> Self {
        Self((at..=end).collect())
    }

    fn advanced(&self, end: usize) -> Self {
        Self(self.0.iter().map(|at| at + 1).filter(|at| *at <= end).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<P: Positions>(end: usize) {
        let mut set = P::only(3);
        set.add(end);
        assert!(set.has(3) && set.has(end) && !set.has(4));
        let next = set.advanced(end);
        assert!(next.has(4) && !next.has(3) && !next.has(end));
        set.remove(3);
        assert_eq!(set.lowest(), Some(end));
        assert!(set.advanced(end).is_empty());
        let range = P::range(2, end);
        assert!(!range.has(1) && range.has(2) && range.has(end));
    }

    #[test]
    fn the_sets_agree() {
        check::<u64>(FEW);
        check::<u64>(5);
        check::<u128>(MANY);
        check::<Unbounded>(500);
    }
}
