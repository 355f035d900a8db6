//! `basic.qos` in RabbitMQ's reading: without `global` for consumers to come, with it shared by all of the channel.
//!
//! Never: counts what was got by `basic.get` or is acknowledged by being sent.

use mynah_core::protocol::Host;

use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::reason::{Code, Fault};

impl Amqp091Connection {
    pub(crate) fn on_qos(
        &mut self,
        number: u16,
        size: u32,
        count: u16,
        global: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if size != 0 {
            return Err(Fault::new(Code::NotImplemented, format!("prefetch_size!=0 ({size})")));
        }
        let global = global || self.capabilities.shares_prefetch;
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        if global {
            channel.shared_prefetch = count;
        } else {
            channel.prefetch = count;
        }
        Response::BasicQosOk {}.put(host.wire(), number);
        if global {
            self.renew_credit(number, host);
            self.send_held(number, host);
        }
        Ok(())
    }
}
