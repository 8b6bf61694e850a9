//! Nothing on the way of a request allocates: decoding never, encoding not into a buffer that is warm.
//!
//! A binary of its own, because it counts through the global allocator (on its own thread only).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use quoit_wire::*;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call goes unchanged to `System`, which keeps the contract; counting touches a plain `Cell` of this
// thread, without a destructor and initialised at compile time, so it allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of `work` on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// One request of every kind that is on a connection's busy path.
fn requests<'a>(value: &'a [u8], keys: Keys<'a>, items: Items<'a>) -> [RequestBody<'a>; 10] {
    let key = b"0123456789abcdef";
    let parameters = SetParameters { ttl_ms: 1000, ..SetParameters::default() };
    [
        RequestBody::Get { key },
        RequestBody::Set { key, parameters, condition: SetCondition::Always, value },
        RequestBody::Delete { key },
        RequestBody::Touch { key, ttl_ms: 1 },
        RequestBody::GetAndTouch { key, ttl_ms: 1 },
        RequestBody::Increment { key, parameters: IncrementParameters { delta: 1, ..IncrementParameters::default() } },
        RequestBody::Append { key, value },
        RequestBody::Prepend { key, value },
        RequestBody::MultiGet(keys),
        RequestBody::MultiSet(items),
    ]
}

/// A turn as both sides do it: encode the requests, decode each where it lies, and answer it.
fn turn(bodies: &[RequestBody<'_>], value: &[u8], input: &mut Vec<u8>, output: &mut Vec<u8>) -> usize {
    input.clear();
    output.clear();
    for (index, body) in bodies.iter().enumerate() {
        body.encode(index as u32 + 1, RequestOptions::default(), input);
    }
    let mut answered = 0;
    let mut rest = &input[..];
    while let Ok(Some(head)) = request_head(rest, 1 << 20) {
        let request = Request::decode(head, rest).expect("a request that was encoded right");
        if let RequestBody::MultiGet(keys) = request.body {
            answered += keys.iter().count();
        }
        Reply { value, ..Reply::status(head.id, Status::Ok) }.encode(output);
        rest = &rest[head.frame_bytes..];
    }
    let mut rest = &output[..];
    while let Ok(Some((reply, frame_bytes))) = Reply::decode(rest) {
        answered += usize::from(reply.status == Status::Ok);
        rest = &rest[frame_bytes..];
    }
    answered
}

#[test]
fn a_turn_over_warm_buffers_allocates_nothing() {
    let value = [7; 64];
    let (mut key_entries, mut item_entries) = (Vec::new(), Vec::new());
    for key in [&b"a"[..], b"bc"] {
        Keys::push(key, &mut key_entries);
        Items::push(Item { key, value: &value, ttl_ms: 0, client_flags: 0 }, &mut item_entries);
    }
    let (keys, items) = (Keys::parse(2, &key_entries).unwrap(), Items::parse(2, &item_entries).unwrap());
    let bodies = requests(&value, keys, items);
    let (mut input, mut output) = (Vec::new(), Vec::new());
    assert!(allocations(|| assert_eq!(turn(&bodies, &value, &mut input, &mut output), 12)) > 0, "cold buffers grow");
    let warm = allocations(|| {
        for _ in 0..1000 {
            assert_eq!(turn(&bodies, &value, &mut input, &mut output), 12);
        }
    });
    assert_eq!(warm, 0, "allocations in a thousand turns over warm buffers");
}
