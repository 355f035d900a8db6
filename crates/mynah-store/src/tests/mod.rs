//! The store on a disk that a test controls.

mod faults;
mod powercut;
mod sim;
