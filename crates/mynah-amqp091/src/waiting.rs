//! What a client's request asked of the broker, and what its reply means.
//!
//! One request at a time: while it waits, the connection consumes no more bytes, so answers come in the order of the requests.
//! Never: answers a request that said no-wait; a refusal closes the channel all the same.

use mynah_core::protocol::{Defined, End, Host, RefusalKind, Reply, Ticket, Violation};
use mynah_core::{ConsumerId, TransactionId};

use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::reason::Fault;
use crate::translate::REPLY_TO;

/// The request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) channel: u16,
    /// Of the channel; 0 for the connection itself.
    pub(crate) serial: u64,
    pub(crate) ids: (u16, u16),
    pub(crate) no_wait: bool,
    pub(crate) asked: Asked,
}

#[derive(Debug)]
pub(crate) enum Asked {
    Login {
        mechanism: &'static str,
    },
    Open {
        virtual_host: Box<str>,
    },
    DeclareQueue {
        passive: bool,
        name: Box<str>,
    },
    DeleteQueue,
    PurgeQueue,
    BindQueue,
    UnbindQueue,
    DeclareExchange,
    DeleteExchange,
    BindExchange,
    UnbindExchange,
    /// The private queue of `amq.rabbitmq.reply-to`.
    ReplyQueue {
        consumer: ConsumerId,
    },
    Consume {
        consumer: ConsumerId,
    },
    Cancel {
        tag: Box<str>,
    },
    /// The hidden consumer of `basic.get`.
    Get {
        consumer: ConsumerId,
    },
    /// The message of `basic.get`: answered by a delivery or its absence, not by a reply.
    Message {
        consumer: ConsumerId,
        got: bool,
    },
    TxSelect {
        id: TransactionId,
    },
    TxCommit,
    TxRollback,
}

impl Amqp091Connection {
    /// Notes what is asked; nothing more is read until its reply.
    pub(crate) fn ask(&mut self, channel: u16, ids: (u16, u16), no_wait: bool, asked: Asked) -> Ticket {
        let ticket = self.ticket();
        let serial = self.channels.get(&channel).map_or(0, |channel| channel.serial);
        self.waiting = Some(Waiting { ticket, channel, serial, ids, no_wait, asked });
        ticket
    }

    /// A ticket whose reply nobody looks at.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub(crate) fn on_answer(
        &mut self,
        waiting: Waiting,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        if let Asked::Login { mechanism } = waiting.asked {
            return self.on_login(mechanism, reply, host);
        }
        if let Asked::Open { virtual_host } = waiting.asked {
            return self.on_opened(&virtual_host, reply, host);
        }
        let open = self
            .channels
            .get(&waiting.channel)
            .is_some_and(|channel| channel.serial == waiting.serial && !channel.closing);
        if !open {
            // A publish before it has closed the channel meanwhile.
            if let Asked::Consume { consumer } | Asked::Get { consumer } = waiting.asked {
                let ticket = self.ticket();
                host.detach(ticket, consumer, End { forget: false, keep_unsettled: false });
            }
            return Ok(());
        }
        let (number, ids) = (waiting.channel, waiting.ids);
        match self.on_channel_answer(waiting, reply, host) {
            Ok(()) => Ok(()),
            Err(fault) => self.on_fault(number, fault.by(ids), host),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a refusal is a refusal, whatever was asked")]
    fn on_channel_answer(
        &mut self,
        waiting: Waiting,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Waiting { channel: number, no_wait, asked, .. } = waiting;
        if let Reply::Defined(defined) = reply {
            return self.on_defined(number, no_wait, &asked, &defined, host);
        }
        let Reply::Refused(refusal) = reply else {
            self.on_done(number, no_wait, asked, host);
            return Ok(());
        };
        let nothing = Defined { name: "".into(), messages: 0, consumers: 0 };
        match asked {
            // Deleting what is not there is no error in RabbitMQ's dialect.
            Asked::DeleteQueue | Asked::DeleteExchange if refusal.kind == RefusalKind::NotFound => {
                self.on_defined(number, no_wait, &asked, &nothing, host)
            }
            // Nor is unbinding what is not bound, as long as both ends exist.
            Asked::UnbindQueue | Asked::UnbindExchange
                if refusal.kind == RefusalKind::NotFound && refusal.text.starts_with("no binding") =>
            {
                self.on_defined(number, no_wait, &asked, &nothing, host)
            }
            // Whether somebody still waits for replies: everybody may ask.
            Asked::DeclareQueue { passive: true, ref name }
                if refusal.kind == RefusalKind::Locked && name.starts_with(REPLY_TO) =>
            {
                let there = Defined { name: (**name).into(), messages: 0, consumers: 1 };
                self.on_defined(number, no_wait, &asked, &there, host)
            }
            Asked::Consume { consumer } | Asked::ReplyQueue { consumer } | Asked::Get { consumer } => {
                self.forget_consumer(consumer);
                Err(Fault::refused(refusal))
            }
            _ => Err(Fault::refused(refusal)),
        }
    }

    /// A definition is as it was asked for.
    fn on_defined(
        &mut self,
        number: u16,
        no_wait: bool,
        asked: &Asked,
        defined: &Defined,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let messages = u32::try_from(defined.messages).unwrap_or(u32::MAX);
        let response = match asked {
            Asked::DeclareQueue { name, .. } => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.last_queue = (*defined.name).into();
                }
                // A reply queue goes by the name a client knows.
                let queue = if name.starts_with(REPLY_TO) { name } else { &*defined.name };
                Response::QueueDeclareOk { queue, messages, consumers: defined.consumers }
            }
            Asked::DeleteQueue => Response::QueueDeleteOk { messages },
            Asked::PurgeQueue => Response::QueuePurgeOk { messages },
            Asked::BindQueue => Response::QueueBindOk {},
            Asked::UnbindQueue => Response::QueueUnbindOk {},
            Asked::DeclareExchange => Response::ExchangeDeclareOk {},
            Asked::DeleteExchange => Response::ExchangeDeleteOk {},
            Asked::BindExchange => Response::ExchangeBindOk {},
            Asked::UnbindExchange => Response::ExchangeUnbindOk {},
            Asked::ReplyQueue { consumer } => {
                self.on_reply_queue(number, no_wait, *consumer, &defined.name, host);
                return Ok(());
            }
            Asked::Login { .. }
            | Asked::Open { .. }
            | Asked::Consume { .. }
            | Asked::Cancel { .. }
            | Asked::Get { .. }
            | Asked::Message { .. }
            | Asked::TxSelect { .. }
            | Asked::TxCommit
            | Asked::TxRollback => return Ok(()),
        };
        if !no_wait {
            response.put(host.wire(), number);
        }
        Ok(())
    }

    /// Consumers and transactions.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is answered by other replies")]
    fn on_done(&mut self, number: u16, no_wait: bool, asked: Asked, host: &mut dyn Host) {
        match asked {
            Asked::Consume { consumer } => self.on_consuming(number, no_wait, consumer, host),
            Asked::Get { consumer } => self.on_getter(number, consumer, host),
            Asked::Cancel { tag } if !no_wait => {
                Response::BasicCancelOk { tag: &tag }.put(host.wire(), number);
            }
            Asked::TxSelect { id } => self.on_tx_selected(number, id, host),
            Asked::TxCommit => self.on_tx_ended(number, true, host),
            Asked::TxRollback => self.on_tx_ended(number, false, host),
            _ => {}
        }
    }
}
