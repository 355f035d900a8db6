//! Runs connections: listeners, protocol detection, the driver
