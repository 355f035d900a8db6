//! AMQP 1.0 as a sans-IO state machine
