//! How much memory messages may take.
//!
//! Never: measures what is used.

/// Of a machine that does not say how much it has.
const UNKNOWN: u64 = 1 << 30;

/// What was configured, or a quarter of what the container or else the machine has.
pub(crate) fn budget(configured: u64) -> u64 {
    if configured > 0 {
        return configured;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let limits = [
        number(&read("/sys/fs/cgroup/memory.max")),
        number(&read("/sys/fs/cgroup/memory/memory.limit_in_bytes")),
        machine(&read("/proc/meminfo")),
    ];
    limits.into_iter().flatten().min().unwrap_or(UNKNOWN) / 4
}

/// `max` stands for no limit.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes > 0)
}

/// `MemTotal:       24689356 kB`
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_counts_and_otherwise_what_there_is() {
        assert_eq!(budget(5), 5);
        assert_eq!((number("max\n"), number("1073741824\n")), (None, Some(1 << 30)));
        assert_eq!(machine("MemFree: 1 kB\nMemTotal:  2048 kB\n"), machine("MemTotal: 2048 kB"));
        assert_eq!(machine("MemTotal:  2048 kB\n"), Some(2 << 20));
        assert!(budget(0) > 0);
    }
}
