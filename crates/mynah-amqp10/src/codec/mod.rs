//! The encodings of AMQP 1.0: types (part 1), frames and performatives (part 2), message sections (part 3).
//!
//! Everything is read from borrowed slices and written to the connection's wire; only what must outlive a frame is owned.
//! Why it is written by hand: `docs/adr/0003-amqp10-codec.md`.
//!
//! Never: allocates by a declared length or count, recurses deeper than [`reader::DEPTH_MAX`], panics on any input.

pub(crate) mod frame;
#[cfg(test)]
mod oracle;
pub(crate) mod performative;
pub(crate) mod reader;
pub(crate) mod section;
pub(crate) mod terminus;
pub(crate) mod transaction;
pub(crate) mod transfer;
pub(crate) mod value;
pub(crate) mod writer;

/// Why bytes could not be read. All mean `amqp:decode-error`; the texts tell the peer where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("a value goes beyond the end of its frame or of the value around it")]
    Truncated,
    #[error("{0:#04x} is no constructor of a type [AMQP 1.6]")]
    Constructor(u8),
    #[error("{0:#04x} is not the constructor of the type that stands here")]
    WrongType(u8),
    #[error("values are nested too deeply")]
    Depth,
    #[error("more values than bytes")]
    Count,
    #[error("a string is not UTF-8, a symbol not ASCII, or a char no Unicode scalar")]
    Text,
    #[error("the mandatory field '{0}' is missing")]
    Missing(&'static str),
    #[error("the descriptor {0:#x} is not known here")]
    Descriptor(u64),
    #[error("message sections are out of order or doubled [AMQP 3.2]")]
    SectionOrder,
}
