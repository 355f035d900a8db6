//! Room for connections: each is a file descriptor, and Debian's soft limit of 1,024 is for programs with a handful.
//!
//! Never: fails; a broker with fewer connections is better than none.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors for listeners, the HTTP ports, the log and what libraries keep open.
const RESERVE: u64 = 256;

/// Raises the soft limit to the hard one where `connections` need it; says so when that is not enough.
pub(crate) fn raise(connections: u32) {
    let wanted = u64::from(connections) + RESERVE;
    let limit = getrlimit(Resource::Nofile);
    let has = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if has(limit.current) {
        return;
    }
    let raised =
        Rlimit { current: limit.maximum.map_or(Some(wanted), |hard| Some(hard.min(wanted))), ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) if has(raised.current) => {}
        Ok(()) => {
            info!(
                open_files = raised.current,
                wanted, "fewer connections than limits.connections_max fit: raise ulimit -n"
            );
        }
        Err(error) => warn!(err = %error, wanted, "the limit of open files could not be raised"),
    }
}
