//! The methods, read in place and written straight (0-9-1 sections 1.3 to 1.9, with RabbitMQ's extensions).
//!
//! Two tables: what a client may send and what this side sends. Bits that stand together share one octet, lowest first.
//! Never: accepts bytes behind the last argument.

use bytes::{BufMut, BytesMut};

use super::field::Table;
use super::{Argument, CodecError, Reader};

macro_rules! methods {
    (
        $(#[$docs:meta])*
        enum $kind:ident {
            $( $name:ident = $class:literal / $method:literal
               ( $($f:ident : $t:ty),* ; $($bit:ident),* ; $($g:ident : $u:ty),* ) )*
        }
    ) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[allow(clippy::enum_variant_names, reason = "methods are called as on the wire")]
        pub(crate) enum $kind<'a> {
            $( $name { $($f: $t,)* $($bit: bool,)* $($g: $u,)* }, )*
        }

        impl<'a> $kind<'a> {
            /// Reads class, method and arguments from the payload of a method frame.
            #[allow(dead_code, reason = "the tests speak the other side")]
            pub(crate) fn read(payload: &'a [u8]) -> Result<Self, CodecError> {
                let mut reader = Reader::new(payload);
                let ids = (reader.u16()?, reader.u16()?);
                let method = match ids {
                    $( ($class, $method) => {
                        $( let $f = <$t as Argument>::read(&mut reader)?; )*
                        let bits = if [$(stringify!($bit)),*].is_empty_bits() { 0 } else { reader.u8()? };
                        $( let $bit = bits & 1 == 1; let bits = bits >> 1; )*
                        let _ = bits;
                        $( let $g = <$u as Argument>::read(&mut reader)?; )*
                        Self::$name { $($f,)* $($bit,)* $($g,)* }
                    } )*
                    (class, method) => return Err(CodecError::Method { class, method }),
                };
                if reader.is_empty() { Ok(method) } else { Err(CodecError::Trailing) }
            }

            /// Class and method.
            #[allow(dead_code, reason = "the tests speak the other side")]
            pub(crate) fn ids(&self) -> (u16, u16) {
                match self {
                    $( Self::$name { .. } => ($class, $method), )*
                }
            }

            /// Writes class, method and arguments.
            #[allow(dead_code, reason = "the tests speak the other side")]
            pub(crate) fn write(&self, buf: &mut BytesMut) {
                match self {
                    $( Self::$name { $($f,)* $($bit,)* $($g,)* } => {
                        buf.put_u16($class);
                        buf.put_u16($method);
                        $( $f.write(buf); )*
                        let all: &[bool] = &[$(*$bit),*];
                        if !all.is_empty() {
                            let octet = all.iter().rev().fold(0_u8, |octet, bit| octet << 1 | u8::from(*bit));
                            buf.put_u8(octet);
                        }
                        $( $g.write(buf); )*
                    } )*
                }
            }
        }
    };
}

/// Whether a method has no bits; a method call, so that an empty list of names has a type.
trait Bits {
    fn is_empty_bits(&self) -> bool;
}

impl<const N: usize> Bits for [&str; N] {
    fn is_empty_bits(&self) -> bool {
        N == 0
    }
}

methods! {
    /// What a client may send.
    enum Request {
        ConnectionStartOk = 10 / 11 (client_properties: Table<'a>, mechanism: &'a str, response: &'a [u8], locale: &'a str;;)
        ConnectionSecureOk = 10 / 21 (response: &'a [u8];;)
        ConnectionTuneOk = 10 / 31 (channel_max: u16, frame_max: u32, heartbeat: u16;;)
        ConnectionOpen = 10 / 40 (virtual_host: &'a str, capabilities: &'a str; insist;)
        ConnectionClose = 10 / 50 (code: u16, text: &'a str, class: u16, method: u16;;)
        ConnectionCloseOk = 10 / 51 (;;)
        ConnectionUpdateSecret = 10 / 70 (secret: &'a [u8], reason: &'a str;;)
        ChannelOpen = 20 / 10 (out_of_band: &'a str;;)
        ChannelFlow = 20 / 20 (; active;)
        ChannelFlowOk = 20 / 21 (; active;)
        ChannelClose = 20 / 40 (code: u16, text: &'a str, class: u16, method: u16;;)
        ChannelCloseOk = 20 / 41 (;;)
        AccessRequest = 30 / 10 (realm: &'a str; exclusive, passive, active, write, read;)
        ExchangeDeclare = 40 / 10 (
            ticket: u16, exchange: &'a str, kind: &'a str;
            passive, durable, auto_delete, internal, no_wait; arguments: Table<'a>
        )
        ExchangeDelete = 40 / 20 (ticket: u16, exchange: &'a str; if_unused, no_wait;)
        ExchangeBind = 40 / 30 (
            ticket: u16, destination: &'a str, source: &'a str, key: &'a str; no_wait; arguments: Table<'a>
        )
        ExchangeUnbind = 40 / 40 (
            ticket: u16, destination: &'a str, source: &'a str, key: &'a str; no_wait; arguments: Table<'a>
        )
        QueueDeclare = 50 / 10 (
            ticket: u16, queue: &'a str;
            passive, durable, exclusive, auto_delete, no_wait; arguments: Table<'a>
        )
        QueueBind = 50 / 20 (
            ticket: u16, queue: &'a str, exchange: &'a str, key: &'a str; no_wait; arguments: Table<'a>
        )
        QueuePurge = 50 / 30 (ticket: u16, queue: &'a str; no_wait;)
        QueueDelete = 50 / 40 (ticket: u16, queue: &'a str; if_unused, if_empty, no_wait;)
        QueueUnbind = 50 / 50 (
            ticket: u16, queue: &'a str, exchange: &'a str, key: &'a str;; arguments: Table<'a>
        )
        BasicQos = 60 / 10 (prefetch_size: u32, prefetch_count: u16; global;)
        BasicConsume = 60 / 20 (
            ticket: u16, queue: &'a str, tag: &'a str; no_local, no_ack, exclusive, no_wait; arguments: Table<'a>
        )
        BasicCancel = 60 / 30 (tag: &'a str; no_wait;)
        BasicCancelOk = 60 / 31 (tag: &'a str;;)
        BasicPublish = 60 / 40 (ticket: u16, exchange: &'a str, key: &'a str; mandatory, immediate;)
        BasicGet = 60 / 70 (ticket: u16, queue: &'a str; no_ack;)
        BasicAck = 60 / 80 (tag: u64; multiple;)
        BasicReject = 60 / 90 (tag: u64; requeue;)
        BasicRecoverAsync = 60 / 100 (; requeue;)
        BasicRecover = 60 / 110 (; requeue;)
        BasicNack = 60 / 120 (tag: u64; multiple, requeue;)
        ConfirmSelect = 85 / 10 (; no_wait;)
        TxSelect = 90 / 10 (;;)
        TxCommit = 90 / 20 (;;)
        TxRollback = 90 / 30 (;;)
    }
}

methods! {
    /// What the broker sends.
    enum Response {
        ConnectionStart = 10 / 10 (
            version_major: u8, version_minor: u8, server_properties: Table<'a>, mechanisms: &'a [u8], locales: &'a [u8];;
        )
        ConnectionTune = 10 / 30 (channel_max: u16, frame_max: u32, heartbeat: u16;;)
        ConnectionOpenOk = 10 / 41 (known_hosts: &'a str;;)
        ConnectionClose = 10 / 50 (code: u16, text: &'a str, class: u16, method: u16;;)
        ConnectionCloseOk = 10 / 51 (;;)
        ConnectionUpdateSecretOk = 10 / 71 (;;)
        ChannelOpenOk = 20 / 11 (channel_id: &'a [u8];;)
        ChannelFlowOk = 20 / 21 (; active;)
        ChannelClose = 20 / 40 (code: u16, text: &'a str, class: u16, method: u16;;)
        ChannelCloseOk = 20 / 41 (;;)
        AccessRequestOk = 30 / 11 (ticket: u16;;)
        ExchangeDeclareOk = 40 / 11 (;;)
        ExchangeDeleteOk = 40 / 21 (;;)
        ExchangeBindOk = 40 / 31 (;;)
        ExchangeUnbindOk = 40 / 51 (;;)
        QueueDeclareOk = 50 / 11 (queue: &'a str, messages: u32, consumers: u32;;)
        QueueBindOk = 50 / 21 (;;)
        QueuePurgeOk = 50 / 31 (messages: u32;;)
        QueueDeleteOk = 50 / 41 (messages: u32;;)
        QueueUnbindOk = 50 / 51 (;;)
        BasicQosOk = 60 / 11 (;;)
        BasicConsumeOk = 60 / 21 (tag: &'a str;;)
        BasicCancel = 60 / 30 (tag: &'a str; no_wait;)
        BasicCancelOk = 60 / 31 (tag: &'a str;;)
        BasicReturn = 60 / 50 (code: u16, text: &'a str, exchange: &'a str, key: &'a str;;)
        BasicDeliver = 60 / 60 (consumer: &'a str, tag: u64; redelivered; exchange: &'a str, key: &'a str)
        BasicGetOk = 60 / 71 (tag: u64; redelivered; exchange: &'a str, key: &'a str, messages: u32)
        BasicGetEmpty = 60 / 72 (cluster_id: &'a str;;)
        BasicAck = 60 / 80 (tag: u64; multiple;)
        BasicNack = 60 / 120 (tag: u64; multiple, requeue;)
        BasicRecoverOk = 60 / 111 (;;)
        ConfirmSelectOk = 85 / 11 (;;)
        TxSelectOk = 90 / 11 (;;)
        TxCommitOk = 90 / 21 (;;)
        TxRollbackOk = 90 / 31 (;;)
    }
}

impl Response<'_> {
    /// Writes the method as a frame.
    pub(crate) fn put(&self, buf: &mut BytesMut, channel: u16) {
        super::frame::put(buf, super::frame::METHOD, channel, |buf| self.write(buf));
    }
}
