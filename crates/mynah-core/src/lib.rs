//! The nouns, the pure machines and the traits of Mynah.
//!
//! # Layout
//!
//! - nouns: [`Message`], [`PublishRef`], [`Address`], [`Filter`], [`Delivery`], [`Value`]
//! - pure machines: [`queue`], [`trie`], [`topic_tree`], [`exchange`]
//! - the seam between protocols and the broker: [`protocol`], [`wire`]; between the broker and what lasts: [`engine`]
//! - bounds: [`limits`]
//!
//! Never: a socket, a file, a clock, an executor, or the name of a protocol.

mod address;
mod body;
mod delivery;
pub mod engine;
pub mod exchange;
mod filter;
pub mod hash;
pub mod limits;
mod message;
mod positions;
pub mod protocol;
mod publish;
pub mod queue;
mod slab;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topic_tree;
pub mod trie;
mod value;
mod vocabulary;
pub mod wire;
pub mod words;

pub use address::{Address, AddressRef};
pub use body::Body;
pub use delivery::{ConsumerId, Delivery, DeliveryTag, Outcome};
pub use filter::{Filter, FilterError, Segment};
pub use message::{
    Cause, Content, Death, Decode, Format, Guarantee, Header, Message, Original, Properties, Retain,
};
pub use publish::{ContentRef, PublishRef, TransactionId};
pub use value::Value;
pub use wire::{Frames, Mark, Run, Wire};
