//! Load generator and comparison with other brokers
