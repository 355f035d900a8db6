//! Runs queues: routing table, sessions, retained messages, policies, transactions, access
