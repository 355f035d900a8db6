//! Sources, targets and outcomes (AMQP 1.0 parts 3.4 and 3.5).

use bytes::{BufMut, BytesMut};
use mynah_core::Outcome;

use super::CodecError;
use super::performative::read_error;
use super::reader::{Fields, Reader};
use super::writer::{composite, compound, len32, put_string, put_symbol, put_symbols};

type Result<T> = std::result::Result<T, CodecError>;

const RECEIVED: u64 = 0x23;
const ACCEPTED: u8 = 0x24;
const REJECTED: u8 = 0x25;
const RELEASED: u8 = 0x26;
const MODIFIED: u8 = 0x27;
const SOURCE: u8 = 0x28;
const TARGET: u8 = 0x29;
const DELETE_ON_CLOSE: u8 = 0x2b;
const COORDINATOR: u8 = 0x30;

/// A source or target as a peer asked for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Terminus<'a> {
    /// The target is the coordinator of transactions, not a node.
    pub(crate) coordinator: bool,
    pub(crate) address: Option<&'a str>,
    /// 0 none, 1 configuration, 2 unsettled state [AMQP 3.5.5].
    pub(crate) durable: u32,
    pub(crate) expiry_policy: Option<&'a str>,
    /// Seconds.
    pub(crate) timeout: u32,
    pub(crate) dynamic: bool,
    /// Of a source: copies instead of messages.
    pub(crate) copy: bool,
    /// Of a source: the filter set, encoded.
    pub(crate) filters: Option<&'a [u8]>,
    /// Of a source: what happens to deliveries settled without an outcome.
    pub(crate) default_outcome: Option<Outcome>,
    /// Of a source: the outcomes that can be chosen; none named means all.
    pub(crate) outcomes: Vec<&'a str>,
    pub(crate) capabilities: Vec<&'a str>,
}

impl<'a> Terminus<'a> {
    pub(crate) fn read(raw: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(raw);
        let descriptor = reader.descriptor()?;
        if descriptor == u64::from(COORDINATOR) {
            let capabilities = reader.list()?.symbols()?;
            return Ok(Self { coordinator: true, capabilities, ..Self::default() });
        }
        let source = descriptor == u64::from(SOURCE);
        if !source && descriptor != u64::from(TARGET) {
            return Err(CodecError::Descriptor(descriptor));
        }
        let mut fields = reader.list()?;
        let mut terminus = Self {
            coordinator: false,
            address: address(&mut fields)?,
            durable: fields.uint()?.unwrap_or(0),
            expiry_policy: fields.symbol()?,
            timeout: fields.uint()?.unwrap_or(0),
            dynamic: fields.boolean()?.unwrap_or(false),
            ..Self::default()
        };
        let _node_properties = fields.raw()?;
        if source {
            terminus.copy = fields.symbol()? == Some("copy");
            terminus.filters = fields.raw()?;
            terminus.default_outcome = match fields.raw()? {
                Some(raw) => read_outcome(raw)?,
                None => None,
            };
            terminus.outcomes = fields.symbols()?;
        }
        terminus.capabilities = fields.symbols()?;
        Ok(terminus)
    }

    /// Whether it outlives its link and its connection [AMQP 3.5.3, 3.5.6].
    pub(crate) fn outlives(&self) -> bool {
        self.expiry_policy == Some("never")
    }

    /// The capabilities that mean something here; the others are not in force and so not answered.
    fn known_capabilities(&self) -> Vec<&'a str> {
        let known = |name: &&&str| {
            matches!(**name, "queue" | "topic" | "temporary-queue" | "temporary-topic" | "shared" | "global")
        };
        self.capabilities.iter().filter(known).copied().collect()
    }

    pub(crate) fn write_source(&self, buf: &mut BytesMut, filters: &[u8]) {
        composite(buf, SOURCE, |list| {
            self.write_node(list);
            list.symbol(Some(if self.copy { "copy" } else { "move" }));
            list.raw(Some(filters).filter(|filters| !filters.is_empty()));
            list.field(self.default_outcome.as_ref(), put_outcome);
            list.field(Some(OUTCOMES), put_symbols);
            list.field(Some(self.known_capabilities()), |buf, known| put_symbols(buf, &known));
        });
    }

    pub(crate) fn write_target(&self, buf: &mut BytesMut) {
        if self.coordinator {
            composite(buf, COORDINATOR, |list| list.field(Some(TRANSACTIONS), put_symbols));
            return;
        }
        composite(buf, TARGET, |list| {
            self.write_node(list);
            list.field(Some(self.known_capabilities()), |buf, known| put_symbols(buf, &known));
        });
    }

    fn write_node(&self, list: &mut super::writer::ListWriter<'_>) {
        list.string(self.address);
        list.uint(Some(self.durable));
        list.symbol(self.expiry_policy);
        list.uint(Some(self.timeout));
        list.boolean(Some(self.dynamic));
        list.field(self.dynamic.then_some(()), |buf, ()| {
            compound(buf, 0xd1, |buf| {
                put_symbol(buf, "lifetime-policy");
                composite(buf, DELETE_ON_CLOSE, |_| ());
                2
            });
        });
    }
}

const OUTCOMES: &[&str] =
    &["amqp:accepted:list", "amqp:rejected:list", "amqp:released:list", "amqp:modified:list"];

/// What the coordinator can do [AMQP 4.5.8]: several at once in a session, and one over several sessions.
const TRANSACTIONS: &[&str] =
    &["amqp:local-transactions", "amqp:multi-txns-per-ssn", "amqp:multi-ssns-per-txn"];

/// An address may be of any type [AMQP 3.5.3]; a string is the only one understood here.
fn address<'a>(fields: &mut Fields<'a>) -> Result<Option<&'a str>> {
    fields.string()
}

/// An outcome; `None` for `received`, which is a state, not an outcome [AMQP 3.4.1].
pub(crate) fn read_outcome(raw: &[u8]) -> Result<Option<Outcome>> {
    let mut reader = Reader::new(raw);
    let descriptor = reader.descriptor()?;
    let mut fields = reader.list()?;
    match u8::try_from(descriptor) {
        Ok(ACCEPTED) => Ok(Some(Outcome::Accepted)),
        Ok(REJECTED) => Ok(Some(Outcome::Rejected { reason: fields.raw()?.and_then(read_error) })),
        Ok(RELEASED) => Ok(Some(Outcome::Released)),
        Ok(MODIFIED) => Ok(Some(Outcome::Modified {
            failed: fields.boolean()?.unwrap_or(false),
            undeliverable_here: fields.boolean()?.unwrap_or(false),
        })),
        _ if descriptor == RECEIVED => Ok(None),
        _ => Err(CodecError::Descriptor(descriptor)),
    }
}

pub(crate) fn put_outcome(buf: &mut BytesMut, outcome: &Outcome) {
    match outcome {
        Outcome::Accepted => buf.put_slice(&[0x00, 0x53, ACCEPTED, 0x45]),
        Outcome::Released => buf.put_slice(&[0x00, 0x53, RELEASED, 0x45]),
        Outcome::Rejected { reason } => composite(buf, REJECTED, |list| {
            list.field(reason.as_deref(), |buf, reason| {
                let (condition, text) = reason.split_once(": ").unwrap_or(("amqp:rejected", reason));
                composite(buf, 0x1d, |list| {
                    list.symbol(Some(condition));
                    list.string(Some(text));
                });
            });
        }),
        Outcome::Modified { failed, undeliverable_here } => composite(buf, MODIFIED, |list| {
            list.boolean(Some(*failed));
            list.boolean(Some(*undeliverable_here));
        }),
    }
}

/// A map of symbols to strings, as the properties of an open are.
pub(crate) fn put_symbol_map(buf: &mut BytesMut, entries: &[(&str, &str)]) {
    compound(buf, 0xd1, |buf| {
        for (key, value) in entries {
            put_symbol(buf, key);
            put_string(buf, value);
        }
        len32(entries.len() * 2)
    });
}

/// The filters of a source that are in force, of those that were asked for.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Filters {
    pub(crate) no_local: bool,
    /// The filter set to answer: only what is in force [AMQP 3.5.8]. Empty if nothing is.
    pub(crate) answer: BytesMut,
}

impl Filters {
    /// The keys are free names; the descriptor of the value says what a filter is.
    pub(crate) fn read(raw: &[u8]) -> Result<Self> {
        const NO_LOCAL: u64 = 0x468c_0000_0003;
        let mut filters = Self::default();
        let mut entries = Reader::new(raw).map()?;
        while entries.left() > 1 {
            let key = entries.raw()?;
            let value = entries.raw()?;
            let (Some(key), Some(value)) = (key, value) else { continue };
            let descriptor = Reader::new(value).descriptor();
            if descriptor == Ok(NO_LOCAL) && !filters.no_local {
                filters.no_local = true;
                compound(&mut filters.answer, 0xd1, |buf| {
                    buf.put_slice(key);
                    buf.put_slice(value);
                    2
                });
            }
        }
        Ok(filters)
    }
}
