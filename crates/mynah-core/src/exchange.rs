//! Exchanges: from a key (and headers) to the bindings that want the message.

use crate::value::Value;

/// Named arguments of a declaration or binding.
pub type Arguments = Vec<(Box<str>, Value)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

/// How an exchange was declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSpec {
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    /// Clients cannot publish to it; only other exchanges lead there.
    pub internal: bool,
    /// Where messages go that no binding wants.
    pub alternate: Option<Box<str>>,
    pub arguments: Arguments,
}
