//! AMQP 0-9-1 as a sans-IO state machine
