//! CPU time and memory of a process and its children, from /proc.
//!
//! Never: a signal, a write. Processes that vanish while being read count as nothing.

use std::fs;

/// Ticks a second in /proc/PID/stat: `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// What a process and its children have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since the start, seconds.
    pub cpu_s: f64,
    /// Resident bytes now.
    pub rss: u64,
}

/// Sums up `pid` and all its descendants.
pub(crate) fn tree(pid: u32) -> Usage {
    family(pid).iter().fold(Usage::default(), |sum, &pid| Usage {
        cpu_s: sum.cpu_s + cpu(&pid.to_string()).unwrap_or(0.0),
        rss: sum.rss + rss(&pid.to_string()).unwrap_or(0),
    })
}

/// `pid` and all its descendants.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let parents = parents();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    family
}

/// This process alone.
pub(crate) fn own() -> Usage {
    Usage { cpu_s: cpu("self").unwrap_or(0.0), rss: rss("self").unwrap_or(0) }
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, field(&stat, 1)?))
    })
    .collect()
}

fn cpu(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (user, system) = (field(&stat, 11)?, field(&stat, 12)?);
    Some((f64::from(user) + f64::from(system)) / TICKS)
}

/// Field `index` behind the name, which is in brackets and may hold anything.
fn field(stat: &str, index: usize) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn rss(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_brackets() {
        let stat = "42 (a ) b) S 7 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5";
        assert_eq!(field(stat, 1), Some(7));
        assert_eq!((field(stat, 11), field(stat, 12)), (Some(250), Some(50)));
        assert_eq!(field("nonsense", 1), None);
    }

    #[test]
    fn this_process_has_memory_and_is_in_its_own_tree() {
        assert!(own().rss > 100_000);
        assert!(tree(std::process::id()).rss >= own().rss / 2);
        assert_eq!(tree(u32::MAX), Usage::default());
    }
}
