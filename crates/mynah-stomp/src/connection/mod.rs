//! One connection: obeys frames one after the other, and says what comes of them.
//!
//! Frames that change who hears what (login, SUBSCRIBE, transactions) wait for the broker's reply; until then nothing is
//! consumed. SENDs do not wait: their receipts are kept in order instead.
//!
//! Never: obeys anything behind an ERROR or a DISCONNECT.

mod heartbeat;
mod login;
mod outbound;
mod receipts;
mod replies;
mod route;
mod send;
mod settle;
mod subscribe;

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mynah_core::ConsumerId;
use mynah_core::protocol::{Connection, Farewell, Host, Input, Peer, Ticket, Violation};

use crate::codec::{Command, Escape, Frame, Limits, Scanned, Scanner, unescape, write_header};
use crate::config::StompConfig;
use crate::reason::Fault;
use crate::subscription::Subscriptions;
use crate::transaction::Transactions;
use crate::version::Version;
use heartbeat::HeartBeat;
use login::Login;
use receipts::{Due, Receipts};
use replies::Waiting;
use route::Routes;
use settle::Settling;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// CONNECT or STOMP.
    Login,
    Open,
    /// DISCONNECT or a fault was seen: receipts are still owed.
    Leaving,
    /// ERROR or the last RECEIPT was written.
    Closed,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Done,
    /// It cannot be obeyed before a reply came: it stays in the buffer and is read again.
    Again,
}

/// A fault, and the receipt the frame asked for.
#[derive(Debug)]
struct Failure {
    fault: Fault,
    receipt: Option<Box<str>>,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, receipt: None }
    }
}

/// A queue of this connection only, for replies.
#[derive(Debug)]
struct TempQueue {
    /// What the client calls it, behind `/temp-queue/`.
    name: Box<str>,
    queue: Arc<str>,
    consumer: Option<ConsumerId>,
}

#[derive(Debug)]
pub(crate) struct StompConnection {
    config: Arc<StompConfig>,
    /// For the `session` header.
    number: u64,
    state: State,
    /// `None` until CONNECT.
    version: Option<Version>,
    scanner: Scanner,
    /// Bytes shown to the scanner and not consumed.
    unread: usize,
    /// Counts inputs of bytes.
    batch: u64,
    login: Option<Box<Login>>,
    login_due: Option<Instant>,
    client_id: Box<str>,
    waiting: Option<Waiting>,
    last_ticket: u64,
    receipts: Receipts,
    beat: HeartBeat,
    subscriptions: Subscriptions,
    transactions: Transactions,
    temp_queues: Vec<TempQueue>,
    routes: Routes,
    settling: Settling,
    /// The header lines of the SEND at hand that travel with it.
    block: BytesMut,
}

impl StompConnection {
    pub(crate) fn new(config: Arc<StompConfig>, peer: &Peer, now: Instant) -> Self {
        let login_due = now.checked_add(config.login_timeout);
        Self {
            config,
            number: peer.connection,
            state: State::Login,
            version: None,
            scanner: Scanner::default(),
            unread: 0,
            batch: 0,
            login: None,
            login_due,
            client_id: Box::default(),
            waiting: None,
            last_ticket: 0,
            receipts: Receipts::default(),
            beat: HeartBeat::new(now),
            subscriptions: Subscriptions::default(),
            transactions: Transactions::default(),
            temp_queues: Vec::new(),
            routes: Routes::default(),
            settling: Settling::default(),
            block: BytesMut::new(),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn escape(&self) -> Escape {
        self.version.map_or(Escape::None, Escape::from)
    }

    fn limits(&self) -> Limits {
        let config = &self.config;
        let limits = Limits {
            command: config.command_bytes_max,
            line: config.header_line_bytes_max,
            headers: config.headers_max,
            head: config.head_bytes_max,
            body: config.body_bytes_max,
        };
        if self.state != State::Login {
            return limits;
        }
        // Half for the headers, half for a body, so that both together stay within the bound.
        let half = config.login_bytes_max / 2;
        Limits { head: limits.head.min(half), body: limits.body.min(half), ..limits }
    }

    fn on_bytes(&mut self, now: Instant, bytes: &[u8], host: &mut dyn Host) -> Result<usize, Failure> {
        if bytes.len() > self.unread {
            self.beat.heard(now);
        }
        self.batch += 1;
        // Taken out, so that a frame may borrow from it while the rest of the connection changes.
        let mut scanner = std::mem::take(&mut self.scanner);
        let result = self.frames(now, bytes, &mut scanner, host);
        self.scanner = scanner;
        self.settling.flush(host);
        let used = match result {
            Ok(used) => used,
            Err(failure) => {
                self.state = State::Leaving;
                self.receipts.push(Due::Fail(failure));
                bytes.len()
            }
        };
        self.unread = bytes.len().saturating_sub(used);
        self.settle_receipts(host)?;
        Ok(used)
    }

    fn frames(
        &mut self,
        now: Instant,
        bytes: &[u8],
        scanner: &mut Scanner,
        host: &mut dyn Host,
    ) -> Result<usize, Failure> {
        let mut limits = self.limits();
        let mut used = 0;
        while self.waiting.is_none() && self.receipts.len() < self.config.receipts_max {
            if self.state == State::Leaving {
                return Ok(bytes.len());
            }
            let rest = bytes.get(used..).unwrap_or_default();
            let receipt = |scanner: &Scanner| {
                let raw = scanner.receipt(rest).filter(|_| self.state != State::Login)?;
                unescape(self.escape(), raw).map(|text| Box::from(text.trim()))
            };
            let scanned = scanner.next(rest, &limits);
            let scanned = scanned.map_err(|fault| Failure { fault, receipt: receipt(scanner) })?;
            let (skip, len) = match scanned {
                Scanned::More { skip } => return Ok(used + skip),
                Scanned::Frame { skip, len } => (skip, len),
            };
            used += skip;
            let whole = bytes.get(used..used + len).unwrap_or_default();
            let frame = Frame::found(whole, scanner, self.version)
                .map_err(|fault| Failure { fault, receipt: receipt(scanner) })?;
            match self.on_frame(now, &frame, host) {
                Ok(Flow::Done) => used += len,
                Ok(Flow::Again) => break,
                Err(fault) => {
                    let asked = self.state != State::Login;
                    let receipt = asked.then(|| frame.get("receipt")).flatten();
                    return Err(Failure { fault, receipt: receipt.map(|text| text.into()) });
                }
            }
            if self.state == State::Open {
                limits = self.limits();
            }
        }
        Ok(used)
    }

    fn on_frame(&mut self, now: Instant, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        if self.state == State::Login && frame.command != Command::Connect {
            let text = format!(
                "The first frame must be CONNECT (or STOMP), not {}. After the CONNECTED it may be sent",
                frame.command.text()
            );
            return Err(Fault::protocol("not connected", text));
        }
        match frame.command {
            Command::Connect => self.on_connect(frame, host),
            Command::Send => self.on_send(now, frame, host),
            Command::Subscribe => self.on_subscribe(frame, host),
            Command::Unsubscribe => self.on_unsubscribe(frame, host),
            Command::Ack => self.on_ack(frame, host),
            Command::Nack => self.on_nack(frame, host),
            Command::Begin => self.on_begin(frame, host),
            Command::Commit => self.on_end(frame, true, host),
            Command::Abort => self.on_end(frame, false, host),
            Command::Disconnect => {
                self.on_disconnect(frame, host);
                Ok(Flow::Done)
            }
        }
    }

    fn on_disconnect(&mut self, frame: &Frame<'_>, host: &mut dyn Host) {
        self.settling.flush(host);
        self.state = State::Leaving;
        self.receipts.push(Due::Goodbye(frame.get("receipt").map(|text| text.into())));
    }

    /// The frame is dealt with: answers its receipt when its turn comes.
    fn done(&mut self, receipt: Option<Box<str>>, host: &mut dyn Host) {
        let Some(receipt) = receipt else { return };
        if self.receipts.is_empty() {
            self.write_receipt(&receipt, host);
        } else {
            self.receipts.push(Due::Done(receipt));
        }
    }

    /// Writes what only waited for its turn.
    fn settle_receipts(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        while let Some(due) = self.receipts.next_done() {
            match due {
                Due::Done(receipt) => self.write_receipt(&receipt, host),
                Due::Goodbye(receipt) => {
                    if let Some(receipt) = receipt {
                        self.write_receipt(&receipt, host);
                    }
                    self.state = State::Closed;
                    host.close(Farewell::Clean { expiry: None });
                }
                Due::Fail(failure) => return Err(failure),
                Due::Send { .. } => {}
            }
        }
        Ok(())
    }

    fn write_receipt(&self, receipt: &str, host: &mut dyn Host) {
        let out = host.wire();
        out.extend_from_slice(b"RECEIPT\n");
        write_header(self.escape(), "receipt-id", receipt, out);
        out.extend_from_slice(b"\n\0\n");
    }

    /// Writes the ERROR, after which nothing is obeyed, and ends the connection.
    fn fail(&mut self, failure: &Failure, host: &mut dyn Host) -> Result<(), Violation> {
        self.state = State::Closed;
        self.write_error(failure, host.wire());
        match failure.fault.violation() {
            Some(violation) => Err(violation),
            None => {
                host.close(Farewell::Abrupt { expiry: None });
                Ok(())
            }
        }
    }

    fn write_error(&self, failure: &Failure, out: &mut BytesMut) {
        let (fault, escape) = (&failure.fault, self.escape());
        out.extend_from_slice(b"ERROR\n");
        if let Some(receipt) = &failure.receipt {
            write_header(escape, "receipt-id", receipt, out);
        }
        if fault.versions {
            write_header(Escape::None, "version", Version::ALL_TEXT, out);
        }
        write_header(escape, "message", &fault.message, out);
        out.extend_from_slice(b"content-type:text/plain\ncontent-length:");
        crate::codec::write_number(fault.text.len() as u64 + 1, out);
        out.extend_from_slice(b"\n\n");
        out.extend_from_slice(fault.text.as_bytes());
        out.extend_from_slice(b"\n\0\n");
    }

    fn on_deadline(&mut self, now: Instant, host: &mut dyn Host) -> Result<(), Failure> {
        let due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        match self.state {
            State::Login if due(self.login_due) => {
                let seconds = self.config.login_timeout.as_secs();
                let text = format!(
                    "No login within {seconds} seconds. Send CONNECT, an empty line and NUL (Ctrl-@ in telnet)"
                );
                return Err(Fault::timeout("login timeout", text).into());
            }
            State::Open if due(self.beat.receive_due()) => {
                if self.waiting.is_none() && self.receipts.is_empty() {
                    let text = "Nothing was heard for more than twice the heart-beat interval the client promised. \
                                Send a line end in time, or announce a longer interval in CONNECT";
                    return Err(Fault::timeout("heart-beat missing", text).into());
                }
                // It was not listened to meanwhile.
                self.beat.heard(now);
            }
            State::Login | State::Open | State::Leaving | State::Closed => {}
        }
        if matches!(self.state, State::Open | State::Leaving) && due(self.beat.send_due()) {
            host.wire().extend_from_slice(b"\n");
        }
        Ok(())
    }

    fn on_input(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Failure> {
        if self.state == State::Closed {
            // The last word is on the wire.
            match input {
                Input::Bytes(bytes) => return Ok(bytes.len()),
                Input::Replies(replies) => replies.clear(),
                Input::Deliveries(deliveries) => deliveries.clear(),
                Input::Encoded { .. }
                | Input::Notice(_)
                | Input::Deadline
                | Input::Shutdown
                | Input::Lost => {}
            }
            return Ok(0);
        }
        match input {
            Input::Bytes(bytes) => return self.on_bytes(now, bytes, host),
            Input::Replies(replies) => {
                for (ticket, reply) in replies.drain(..) {
                    self.on_reply(now, ticket, reply, host)?;
                }
            }
            Input::Deliveries(deliveries) => self.on_deliveries(now, deliveries, host),
            // Nothing subscribes with a wire class: each STOMP subscription has its own bytes.
            Input::Encoded { .. } | Input::Lost => {}
            Input::Notice(notice) => self.on_notice(notice, host)?,
            Input::Deadline => self.on_deadline(now, host)?,
            Input::Shutdown => {
                let text =
                    "The server stops. Connect again later; what was not acknowledged is delivered again";
                return Err(Fault::notice("server shutting down", text).into());
            }
        }
        Ok(0)
    }
}

impl Connection for StompConnection {
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        let shown = if let Input::Bytes(bytes) = &input { bytes.len() } else { 0 };
        let before = host.wire().len();
        let result = self.on_input(now, input, host);
        let used = match result {
            Ok(used) => used,
            Err(failure) => {
                self.fail(&failure, host)?;
                shown
            }
        };
        if host.wire().len() != before {
            self.beat.sent(now);
        }
        Ok(used)
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Login => self.login_due,
            State::Open => self.beat.deadline(),
            State::Leaving => self.beat.send_due(),
            State::Closed => None,
        }
    }
}
