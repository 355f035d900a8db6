//! The driver in virtual time, with sockets that are not there and a protocol of lines.

mod back_pressure;
mod bytes_in;
mod endings;
mod lab;
mod line;
mod panics;
mod sockets;
mod writing;
