//! Black-box suites
