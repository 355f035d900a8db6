//! Every bound of the connections' running, with its reason.

use std::time::Duration;

/// Bytes asked for in one read.
pub const READ_BYTES: usize = 64 * 1024;

/// Bytes asked for when the read before came back full: fewer system calls for those who send much.
pub const READ_BYTES_MAX: usize = 256 * 1024;

/// Fewer bytes in a read are a message or two.
pub const READ_BYTES_LITTLE: usize = 512;

/// An unfinished frame up to this is copied in front of the next read; a larger one gets a buffer of its own.
pub const REST_BYTES_COPIED: usize = 32 * 1024;

/// Unsent bytes over which a connection neither reads nor takes from its inbox.
pub const WIRE_BYTES_HIGH: usize = 1 << 20;

/// Rounds of reading and writing before a task yields to others.
pub const ROUNDS_MAX: u32 = 4;

/// How long to wait for the peer to read a farewell before the socket is closed under it.
pub const LINGER: Duration = Duration::from_secs(1);

/// Bytes a connection may send before its protocol is known; the longest preamble is that of a person at telnet.
pub const DETECT_BYTES_MAX: usize = 4096;

/// Connections waiting to be accepted.
pub const BACKLOG: i32 = 4096;

/// Pause after the process ran out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a farewell may take to be written to a peer that does not read.
pub const FAREWELL: Duration = Duration::from_secs(5);

/// Unconsumed bytes of a connection, above the largest message, at which it is not read any further until it consumes some: one that
/// waits for a reply consumes nothing, however much its peer sends. Room for the largest frame's head.
pub const REST_BYTES_EXTRA: usize = 4 << 20;

/// The longest line of the PROXY protocol's version 1, which says so.
pub const PROXY_LINE_MAX: usize = 107;

/// Bytes of a PROXY header's addresses and extensions; certificates of the client may be among them.
pub const PROXY_HEADER_MAX: usize = 4096;

/// How often the files of certificates are looked at, when somebody connects.
pub const CERTIFICATES_LOOKED_AT: Duration = Duration::from_secs(1);

/// Bytes of an HTTP request's head; browsers send cookies.
pub const HTTP_HEAD_MAX: usize = 8 * 1024;

/// Header fields of an HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;

/// Bytes of one WebSocket frame that is sent.
pub const WEBSOCKET_FRAME_SENT_MAX: usize = 256 * 1024;

/// Bytes of a received WebSocket frame above the largest message: the frame of the protocol around it.
pub const WEBSOCKET_FRAME_EXTRA: u64 = 1 << 20;

/// Bytes of answers to pings that a peer may leave unread, with what is being sent.
pub const WEBSOCKET_OWED_MAX: usize = 1 << 20;
