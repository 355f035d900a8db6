//! The limit of open files: read from /proc, and raised where a thousand connections need it.
//!
//! Safe Rust cannot call setrlimit, but it can replace this process by a shell that does, which then starts the same
//! program with the same arguments again, under the same pid. Brokers that are started later inherit the limit.
//! Never: loops; a variable marks the second start.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Marks a program that has been started again. Without Mynah's prefix, which belongs to its configuration.
pub(crate) const MARK: &str = "BENCH_OPEN_FILES_RAISED";
/// Files besides the connections.
const SPARE: usize = 100;
const RAISE: &str = "ulimit -n \"$(ulimit -Hn)\" 2>/dev/null; exec \"$0\" \"$@\"";

/// Files that this process may have open; a careful guess where /proc does not say.
pub(crate) fn open_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    soft(&limits).unwrap_or(1024)
}

/// Makes room for `connections`, if the hard limit allows.
///
/// # Errors
///
/// The limit stays too low; the text says what to change.
pub(crate) fn make_room(connections: usize) -> anyhow::Result<()> {
    let wanted = connections.saturating_add(SPARE);
    if open_max() >= wanted {
        return Ok(());
    }
    if env::var_os(MARK).is_none() {
        let program = env::current_exe()?;
        let error = Command::new("sh")
            .arg("-c")
            .arg(RAISE)
            .arg(program)
            .args(env::args_os().skip(1))
            .env(MARK, "1")
            .exec();
        return Err(error.into());
    }
    anyhow::bail!(
        "{connections} connections need {wanted} open files and the limit is {}: raise it (ulimit -Hn, limits.conf)",
        open_max()
    )
}

/// The soft limit in a text of /proc/PID/limits.
fn soft(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files\n";
        assert_eq!(soft(limits), Some(1024));
        assert_eq!(soft("Max open files unlimited unlimited files"), Some(usize::MAX));
        assert_eq!(soft(""), None);
    }

    #[test]
    fn there_is_room_for_one() {
        make_room(1).unwrap();
    }
}
