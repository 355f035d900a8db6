//! Slows down who guesses passwords, by address and by user.
//!
//! After some failures every further attempt from the address waits for the one before it and then a while, so many at once gain
//! nothing; an attempt that would wait too long is refused unseen. A user that is guessed at from many addresses waits as well, but
//! is never locked out. Failures are forgotten a while after the last one. The right password waits like a wrong one,
//! or the waiting would tell them apart.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The first wait; it doubles with each failure.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Who would wait longer is refused; below the time a login may take.
const QUEUE_MAX: Duration = Duration::from_secs(8);
/// After the last failure.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Addresses and users that are remembered.
const TRACKED_MAX: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Guard {
    failures_max: u32,
    tracked: AtomicUsize,
    strikes: Mutex<HashMap<Suspect, Strikes>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Suspect {
    Address(IpAddr),
    User(Arc<str>),
}

#[derive(Debug)]
struct Strikes {
    count: u32,
    last: Instant,
    /// When the attempts before this one have been answered.
    free_at: Instant,
}

/// How an attempt is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Now,
    After(Duration),
    Refused,
}

impl Guard {
    /// `failures_max`: failures before anything is slowed; 0: nothing ever is.
    pub(crate) fn new(failures_max: u32) -> Self {
        Self { failures_max, tracked: AtomicUsize::new(0), strikes: Mutex::default() }
    }

    pub(crate) fn attempt(&self, address: IpAddr, user: &str, now: Instant) -> Attempt {
        if self.tracked.load(Ordering::Relaxed) == 0 {
            return Attempt::Now;
        }
        let mut strikes = self.strikes.lock();
        let mut wait = Duration::ZERO;
        if let Some(found) = strikes.get(&Suspect::User(user.into())) {
            wait = self.wait(found, now);
        }
        if let Some(found) = strikes.get_mut(&network(address)) {
            let own = self.wait(found, now);
            if !own.is_zero() {
                let free_at = found.free_at.max(now) + own;
                let queued = free_at.saturating_duration_since(now);
                if queued > QUEUE_MAX {
                    return Attempt::Refused;
                }
                found.free_at = free_at;
                wait = wait.max(queued);
            }
        }
        if wait.is_zero() { Attempt::Now } else { Attempt::After(wait) }
    }

    fn wait(&self, strikes: &Strikes, now: Instant) -> Duration {
        if strikes.count < self.failures_max || now.saturating_duration_since(strikes.last) > FORGOTTEN_AFTER
        {
            return Duration::ZERO;
        }
        let doubled = (strikes.count - self.failures_max).min(8);
        (WAIT_MIN * (1 << doubled)).min(WAIT_MAX)
    }

    pub(crate) fn failed(&self, address: IpAddr, user: &str, now: Instant) {
        if self.failures_max == 0 {
            return;
        }
        let mut strikes = self.strikes.lock();
        if strikes.len() >= TRACKED_MAX {
            strikes.retain(|_, found| now.saturating_duration_since(found.last) <= FORGOTTEN_AFTER);
        }
        for suspect in [network(address), Suspect::User(user.into())] {
            if strikes.len() >= TRACKED_MAX && !strikes.contains_key(&suspect) {
                continue;
            }
            let found = strikes.entry(suspect).or_insert(Strikes { count: 0, last: now, free_at: now });
            if now.saturating_duration_since(found.last) > FORGOTTEN_AFTER {
                found.count = 0;
            }
            found.count = found.count.saturating_add(1);
            found.last = now;
        }
        self.tracked.store(strikes.len(), Ordering::Relaxed);
    }

    /// The user's failures are forgotten, not the address's: who has one password could guess others for ever.
    pub(crate) fn succeeded(&self, user: &str) {
        if self.tracked.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut strikes = self.strikes.lock();
        strikes.remove(&Suspect::User(user.into()));
        self.tracked.store(strikes.len(), Ordering::Relaxed);
    }
}

/// One customer of an IPv6 provider has a whole /64.
fn network(address: IpAddr) -> Suspect {
    Suspect::Address(match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn failing(times: u32) -> (Guard, Instant) {
        let (guard, now) = (Guard::new(3), Instant::now());
        (0..times).for_each(|_| guard.failed(address(1), "a", now));
        (guard, now)
    }

    #[test]
    fn some_failures_are_free() {
        let (guard, now) = failing(2);
        assert_eq!(guard.attempt(address(1), "a", now), Attempt::Now);
        let (guard, now) = failing(3);
        assert_eq!(guard.attempt(address(1), "b", now), Attempt::After(WAIT_MIN));
        assert_eq!(guard.attempt(address(2), "a", now), Attempt::After(WAIT_MIN));
        assert_eq!(guard.attempt(address(2), "b", now), Attempt::Now);
    }

    #[test]
    fn many_at_once_wait_for_one_another_and_end() {
        let (guard, now) = failing(20);
        assert_eq!(guard.attempt(address(1), "x", now), Attempt::After(WAIT_MAX));
        assert_eq!(guard.attempt(address(1), "x", now), Attempt::After(WAIT_MAX * 2));
        assert_eq!(guard.attempt(address(1), "x", now), Attempt::Refused);
        let later = now + Duration::from_secs(30);
        assert_eq!(guard.attempt(address(1), "x", later), Attempt::After(WAIT_MAX));
    }

    #[test]
    fn a_user_is_slowed_and_not_locked_out() {
        let (guard, now) = failing(1000);
        for _ in 0..100 {
            assert_eq!(guard.attempt(address(9), "a", now), Attempt::After(WAIT_MAX));
        }
        guard.succeeded("a");
        assert_eq!(guard.attempt(address(9), "a", now), Attempt::Now);
        assert_ne!(guard.attempt(address(1), "a", now), Attempt::Now);
    }

    #[test]
    fn it_is_forgotten_and_can_be_turned_off() {
        let (guard, now) = failing(10);
        let later = now + FORGOTTEN_AFTER + Duration::from_secs(1);
        assert_eq!(guard.attempt(address(1), "a", later), Attempt::Now);
        guard.failed(address(1), "a", later);
        assert_eq!(guard.attempt(address(1), "a", later), Attempt::Now);
        let off = Guard::new(0);
        (0..100).for_each(|_| off.failed(HERE, "a", now));
        assert_eq!(off.attempt(HERE, "a", now), Attempt::Now);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_networks_count_as_one() {
        let (guard, now) = failing(0);
        for number in 0..TRACKED_MAX {
            guard.failed(address(1), &number.to_string(), now);
        }
        assert!(guard.strikes.lock().len() <= TRACKED_MAX);
        let one: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let other: IpAddr = "2001:db8:1:2:ffff::1".parse().unwrap();
        assert_eq!(network(one), network(other));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network(address(1)));
    }
}
