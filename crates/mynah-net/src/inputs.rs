//! Shows a connection what has come for it: bytes, replies, the content of its inbox; each in a turn of its own.
//!
//! Replies are passed on as soon as they are there, so that a connection that waits for one goes on with the same bytes.
//!
//! Never: reads or writes a socket.

use std::sync::Arc;
use std::time::Instant;

use mynah_broker::batch::Batch;
use mynah_broker::{ConnectionHost, Inbox, Taken, Turn, pool};
use mynah_core::protocol::{Connection, Input, Violation};

/// Lets the connection handle bytes until it has consumed what it can, with the replies that came meanwhile.
pub(crate) fn handle_bytes(
    connection: &mut dyn Connection,
    host: &mut ConnectionHost,
    batch: &mut Batch,
    now: Instant,
    bytes: &[u8],
) -> Result<usize, Violation> {
    let mut used = 0;
    let mut turn = host.turn(batch, now);
    let result = loop {
        let rest = bytes.get(used..).unwrap_or_default();
        if !rest.is_empty() && turn.host.closing.is_none() {
            match connection.handle(now, Input::Bytes(rest), &mut turn) {
                Ok(count) => used += count,
                Err(violation) => break Err(violation),
            }
        }
        match answer(connection, &mut turn, now) {
            Ok(true) => {}
            Ok(false) => break Ok(used),
            Err(violation) => break Err(violation),
        }
    };
    finish(turn, &result);
    result
}

pub(crate) fn handle(
    connection: &mut dyn Connection,
    host: &mut ConnectionHost,
    batch: &mut Batch,
    now: Instant,
    input: Input<'_>,
) -> Result<(), Violation> {
    let mut turn = host.turn(batch, now);
    let result =
        connection.handle(now, input, &mut turn).and_then(|_| answer_all(connection, &mut turn, now));
    finish(turn, &result);
    result
}

/// Passes on the replies there are. True if there were any.
fn answer(connection: &mut dyn Connection, turn: &mut Turn<'_>, now: Instant) -> Result<bool, Violation> {
    turn.flush();
    if turn.batch.replies.is_empty() {
        return Ok(false);
    }
    let mut replies = std::mem::take(&mut turn.batch.replies);
    let result = connection.handle(now, Input::Replies(&mut replies), turn);
    replies.clear();
    if turn.batch.replies.is_empty() {
        turn.batch.replies = replies;
    }
    result.map(|_| true)
}

fn answer_all(connection: &mut dyn Connection, turn: &mut Turn<'_>, now: Instant) -> Result<(), Violation> {
    while answer(connection, turn, now)? {}
    Ok(())
}

/// Everything from the inbox, in the order replies, runs, deliveries, notices.
pub(crate) fn handle_taken(
    connection: &mut dyn Connection,
    host: &mut ConnectionHost,
    batch: &mut Batch,
    now: Instant,
    taken: &mut Taken,
) -> Result<(), Violation> {
    let mut turn = host.turn(batch, now);
    let result = handle_each(connection, &mut turn, now, taken);
    finish(turn, &result);
    result
}

/// Hands over what the turn has brought. Replies that a violation has cut off are nobody's: not the next connection's either.
fn finish<R>(mut turn: Turn<'_>, result: &Result<R, Violation>) {
    if result.is_err() {
        turn.flush();
        turn.batch.replies.clear();
    }
    turn.finish();
}

/// The connection parks its state; whatever it says of violations, it is over.
pub(crate) fn say_lost(
    connection: &mut dyn Connection,
    host: &mut ConnectionHost,
    batch: &mut Batch,
    now: Instant,
) {
    let mut turn = host.turn(batch, now);
    let _ = connection.handle(now, Input::Lost, &mut turn);
    turn.flush();
    turn.batch.replies.clear();
    turn.finish();
}

/// The broker forgets the connection, and who waits for it goes on.
pub(crate) fn end(host: &mut ConnectionHost, batch: &mut Batch, now: Instant) {
    resume(host.info.inbox.give_up_waiting());
    let mut turn = host.turn(batch, now);
    turn.leave();
    turn.finish();
}

/// Wakes publishers that paused, even those that count as woken: they may wait for their own sockets as well, and with little
/// unsent they go on reading all the same.
pub(crate) fn resume(publishers: impl IntoIterator<Item = Arc<Inbox>>) {
    publishers.into_iter().for_each(|publisher| publisher.wake());
}

/// Whether there is nothing in it but frames that need no patching, of which the connection is not told.
pub(crate) fn taken_is_bytes_only(taken: &Taken) -> bool {
    taken.run.marks.is_empty()
        && taken.deliveries.is_empty()
        && taken.replies.is_empty()
        && taken.notices.is_empty()
}

fn handle_each(
    connection: &mut dyn Connection,
    turn: &mut Turn<'_>,
    now: Instant,
    taken: &mut Taken,
) -> Result<(), Violation> {
    if !taken.replies.is_empty() {
        connection.handle(now, Input::Replies(&mut taken.replies), turn)?;
        taken.replies.clear();
        answer_all(connection, turn, now)?;
    }
    if !taken.run.bytes.is_empty() && turn.host.closing.is_none() {
        let mut run = std::mem::take(&mut taken.run);
        turn.batch.meter.delivered += u64::from(run.frames);
        if !run.marks.is_empty() {
            let input = Input::Encoded { bytes: &mut run.bytes, marks: &run.marks };
            connection.handle(now, input, turn)?;
        }
        if turn.host.wire.is_empty() {
            // The run becomes the wire: no copy.
            std::mem::swap(&mut turn.host.wire, &mut run.bytes);
        } else {
            turn.host.wire.extend_from_slice(&run.bytes);
        }
        run.clear();
        pool::give_run(run);
        answer_all(connection, turn, now)?;
    }
    // A reply may have made the protocol end a consumer: its deliveries are back in their queue.
    turn.forget_ended(&mut taken.deliveries);
    if !taken.deliveries.is_empty() && turn.host.closing.is_none() {
        turn.sent(&taken.deliveries);
        connection.handle(now, Input::Deliveries(&mut taken.deliveries), turn)?;
        taken.deliveries.clear();
        answer_all(connection, turn, now)?;
    }
    for notice in taken.notices.drain(..) {
        if turn.host.closing.is_some() {
            break;
        }
        connection.handle(now, Input::Notice(notice), turn)?;
        answer_all(connection, turn, now)?;
    }
    Ok(())
}
