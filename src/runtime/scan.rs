//! The scan: bytes are cut into frames where they lie, and each frame is sent its way.
//!
//! A frame is whole, unfinished, refused, or not this protocol's; a whole one joins the ready list, or goes to the core that
//! owns its key. What can't go on stalls the connection. The scan moves no bytes to the carry and executes nothing: it says
//! why it stopped ([`Stop`]), and `intake.rs` does what follows from that.

use quoit_wire::{Operation, Refusal, Request, RequestBody, RequestFlags, RequestHead, Status, request_head};

use super::budget::{Admission, Want};
use super::connection::{Connection, Intake, Stall, Token};
use super::core::{Core, Ready, Source};
use super::limits::{CONNECTION_INFLIGHT_MAX, OVERLOADED_RETRY_MS, RECEIVE_BUFFER_BYTES, RESERVE_BYTES_MIN};
use crate::shard::Route;

/// Why a scan stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// Everything is scanned, or what is left is an unfinished frame.
    End,
    /// What is left must wait.
    Stalled,
    /// What is left goes on after the ready list has been executed.
    Barrier,
    /// What is left begins with a large set whose front is here.
    Large(RequestHead, u64),
    /// The stream is not this protocol.
    Broken,
}

/// Scans frames from `offset` to `end` of `source`; returns how many bytes are done with, and why it stopped.
pub(super) fn scan(
    core: &mut Core,
    slot: u32,
    connection: &mut Connection,
    source: Source,
    start: usize,
    end: usize,
) -> (usize, Stop) {
    let mut offset = start;
    let output_bytes_high = core.output_bytes_high();
    if is_still_arriving(connection, source, start, end) {
        return (0, Stop::End);
    }
    connection.is_promised = false;
    if connection.inflight >= CONNECTION_INFLIGHT_MAX {
        // Also of this core's own keys: their replies may wait for a commit.
        stall_on(core, slot, connection, Stall::Inflight);
        return (0, Stop::Stalled);
    }
    loop {
        if offset == end {
            return (offset - start, Stop::End);
        }
        if let Intake::Skip(left) = &mut connection.intake {
            let skipped = (*left).min(end - offset);
            *left -= skipped;
            offset += skipped;
            if *left == 0 {
                connection.intake = Intake::Frames;
            }
            continue;
        }
        if connection.unsent_bytes() > output_bytes_high {
            stall_on(core, slot, connection, Stall::Output);
            return (offset - start, Stop::Stalled);
        }
        if !core.has_reply_room(connection) {
            core.wait_for_room(slot, connection, Want::Reply);
            return (offset - start, Stop::Stalled);
        }
        let rest = match source {
            Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
            Source::Carry => &connection.carry[offset..end],
        };
        let head = match request_head(rest, core.options.value_bytes_max) {
            Ok(Some(head)) => head,
            Ok(None) => return (offset - start, Stop::End),
            // What is passed over is counted from here on: nothing that might have to wait may stand before it.
            Err(_) if connection.ready > 0 => return (offset - start, Stop::Barrier),
            Err(Refusal { id: Some(id), status, frame_bytes: Some(frame_bytes) }) => {
                connection.output.status(id, status);
                connection.intake = Intake::Skip(frame_bytes);
                core.counters.refused += 1;
                core.counters.answered += 1;
                core.mark_dirty(slot, connection);
                continue;
            }
            Err(_) => return (offset - start, Stop::Broken),
        };
        if rest.len() < head.frame_bytes {
            return (offset - start, unfinished(core, slot, connection, source, offset, end, head));
        }
        if core.is_refusing() {
            if connection.ready > 0 {
                return (offset - start, Stop::Barrier);
            }
            connection.output.status(head.id, Status::ShuttingDown);
            connection.intake = Intake::Skip(usize::MAX);
            core.shard.count(head.operation, Status::ShuttingDown);
            core.counters.answered += 1;
            core.mark_dirty(slot, connection);
            continue;
        }
        let hash = if head.key_bytes > 0 { core.shard.hash(head.key(rest)) } else { 0 };
        if head.operation == Operation::Hello {
            if connection.ready > 0 {
                return (offset - start, Stop::Barrier);
            }
            core.refuse_hello(slot, connection, head.id, Status::Malformed);
            continue;
        }
        let mut route = if head.key_bytes > 0 { core.shard.route(hash) } else { Route::Here };
        if let Route::Moved { .. } = route
            && head.operation == Operation::Get
            && core.shard.can_read(hash, head.flags.has(RequestFlags::ANY_COPY))
        {
            route = Route::Here;
        }
        match route {
            Route::Here => match head.operation {
                Operation::Stats | Operation::MultiGet | Operation::MultiSet | Operation::Flush
                    if !core.shard.owns_all(head, &rest[..head.frame_bytes]) =>
                {
                    if connection.ready > 0 {
                        return (offset - start, Stop::Barrier);
                    }
                    let mut frame = std::mem::take(&mut core.scratch);
                    frame.clear();
                    let rest = match source {
                        Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
                        Source::Carry => &connection.carry[offset..end],
                    };
                    frame.extend_from_slice(&rest[..head.frame_bytes]);
                    let stall = core.span(slot, connection, head, &frame);
                    core.scratch = frame;
                    if let Some(stall) = stall {
                        stall_on(core, slot, connection, stall);
                        return (offset - start, Stop::Stalled);
                    }
                }
                _ => {
                    connection.ready += 1;
                    core.ready.push(Ready { hash, slot, offset: offset as u32, source });
                }
            },
            Route::Core(owner) => {
                let owner = usize::from(owner);
                if connection.inflight >= CONNECTION_INFLIGHT_MAX {
                    stall_on(core, slot, connection, Stall::Inflight);
                    return (offset - start, Stop::Stalled);
                }
                if !core.mesh.has_credit(owner, head.frame_bytes) {
                    stall_on(core, slot, connection, Stall::Credit(owner));
                    return (offset - start, Stop::Stalled);
                }
                let token = Token::Connection { slot, generation: connection.generation }.to_u64();
                let frame = match source {
                    Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..offset + head.frame_bytes],
                    Source::Carry => &connection.carry[offset..offset + head.frame_bytes],
                };
                core.mesh.request(owner, token, frame, core.now);
                core.counters.forwarded += 1;
                connection.inflight += 1;
            }
            Route::Moved { epoch } => {
                let version = quoit_wire::Version::from_u64(u64::from(epoch));
                connection.output.written(head.id, Status::Moved, version);
                core.shard.count(head.operation, Status::Moved);
                core.counters.answered += 1;
                core.mark_dirty(slot, connection);
            }
        }
        offset += head.frame_bytes;
    }
}

/// Whether more is to come of a frame that was promised its room. It keeps the promise, and waits for nothing else: whoever
/// stopped there would hold what others wait for.
fn is_still_arriving(connection: &Connection, source: Source, start: usize, end: usize) -> bool {
    if !connection.is_promised || !matches!(source, Source::Carry) {
        return false;
    }
    let arrived = &connection.carry[start..end];
    matches!(request_head(arrived, usize::MAX), Ok(Some(head)) if arrived.len() < head.frame_bytes)
}

/// What to do with a frame whose end has not arrived.
fn unfinished(
    core: &mut Core,
    slot: u32,
    connection: &mut Connection,
    source: Source,
    offset: usize,
    end: usize,
    head: RequestHead,
) -> Stop {
    if head.operation == Operation::Set && head.payload_bytes() >= RESERVE_BYTES_MIN {
        let rest = match source {
            Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
            Source::Carry => &connection.carry[offset..end],
        };
        if rest.len() < head.payload_offset() {
            return Stop::End;
        }
        let hash = core.shard.hash(head.key(rest));
        if core.shard.route(hash) == Route::Here {
            core.scratch.clear();
            core.scratch.extend_from_slice(&rest[..head.payload_offset()]);
            return Stop::Large(head, hash);
        }
    }
    if head.frame_bytes <= RECEIVE_BUFFER_BYTES && !core.budget.is_short() {
        return Stop::End;
    }
    // The carry takes the rest of the frame: it gets its whole room now, on account, or waits for it.
    let held = match source {
        Source::Buffer(_) => 0,
        Source::Carry => end - offset,
    };
    let room = connection.carry.capacity() - connection.carry.len();
    let missing_bytes = (head.frame_bytes - held).saturating_sub(room);
    let want = Want::Frame(missing_bytes);
    if core.budget.admit_frame(missing_bytes) != Admission::Admitted {
        core.drop_spares();
    }
    let admission = match core.budget.admit_frame(missing_bytes) {
        Admission::Admitted if missing_bytes > 0 && !connection.has_turn && core.budget.has_waiting(want) => {
            Admission::Wait
        }
        admission => admission,
    };
    match admission {
        Admission::Admitted => {
            connection.carry.reserve_exact(head.frame_bytes - held);
            connection.is_promised = true;
            core.recharge(connection);
            return Stop::End;
        }
        Admission::Wait => {
            core.wait_for_room(slot, connection, want);
            return Stop::Stalled;
        }
        Admission::Refused => {}
    }
    if connection.ready == 0 {
        connection.output.overloaded(head.id, OVERLOADED_RETRY_MS);
        connection.intake = Intake::Skip(head.frame_bytes);
        core.shard.count(head.operation, Status::Overloaded);
        core.counters.answered += 1;
        core.mark_dirty(slot, connection);
    }
    Stop::Barrier
}

pub(super) fn stall_on(core: &mut Core, slot: u32, connection: &mut Connection, stall: Stall) {
    connection.stall = Some(stall);
    match stall {
        Stall::Output => core.counters.stalls_output += 1,
        Stall::Inflight => core.counters.stalls_inflight += 1,
        Stall::Credit(peer) => {
            core.counters.stalls_credit += 1;
            core.mesh.wait(peer, slot);
        }
        Stall::Budget => core.counters.stalls_budget += 1,
    }
}

/// The body of a multi operation's request, for cutting it into parts.
pub(super) fn multi_body<'a>(head: RequestHead, frame: &'a [u8]) -> Result<RequestBody<'a>, Status> {
    Request::decode(head, frame).map(|request| request.body).map_err(|refusal| refusal.status)
}
