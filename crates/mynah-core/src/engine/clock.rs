//! Times that outlive the process.

use std::time::{Duration, Instant};

/// One moment on both clocks: turns an [`Instant`] into a time of day and back.
///
/// Wall-clock jumps after it was taken do not matter to anything that is not stored.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    pub at: Instant,
    /// Milliseconds since the Unix epoch.
    pub epoch_ms: i64,
}

impl WallClock {
    #[must_use]
    pub fn epoch_ms(&self, at: Instant) -> i64 {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.at) {
            Some(later) => self.epoch_ms.saturating_add(ms(later)),
            None => self.epoch_ms.saturating_sub(ms(self.at.saturating_duration_since(at))),
        }
    }

    /// The earliest moment the machine knows, for times too long ago.
    #[must_use]
    pub fn instant(&self, epoch_ms: i64) -> Instant {
        let distance = Duration::from_millis(epoch_ms.abs_diff(self.epoch_ms));
        let at = if epoch_ms >= self.epoch_ms {
            self.at.checked_add(distance)
        } else {
            self.at.checked_sub(distance)
        };
        at.unwrap_or(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let clock = WallClock { at: Instant::now(), epoch_ms: 1_000_000 };
        for ms in [0, 999_000, 1_000_000, 1_000_001, 5_000_000] {
            assert_eq!(clock.epoch_ms(clock.instant(ms)), ms);
        }
    }
}
