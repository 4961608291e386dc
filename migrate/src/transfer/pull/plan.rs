//! What is where: which chunks of a blob to ask for next, and which can be given on. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;

use super::super::chunk::Chunk;
use super::super::window::MAX_WINDOW;
use super::super::wire::MAX_CHUNKS_PER_REQUEST;

/// Most bytes that were asked for and wait for an earlier chunk.
const MAX_AHEAD: u64 = MAX_WINDOW;
/// Bytes that are read from the pack at a time.
const MAX_RUN: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Zero,
    /// In the pack, or will be when its turn comes.
    Held,
    Wanted,
    Asked,
    Ready,
}

/// A blob on its way.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    chunks: &'a [Chunk],
    states: Vec<State>,
    /// What came before its turn.
    ready: BTreeMap<usize, Bytes>,
    /// Wanted chunks before the cursor.
    again: BTreeSet<usize>,
    /// The next chunk to give on.
    head: usize,
    /// The next chunk to look at for a request.
    cursor: usize,
    /// Bytes asked for or ready.
    ahead: u64,
}

/// What can be done about the next chunk in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Give it on.
    Give(Given),
    /// Read it from the pack, and those after it.
    Load,
    /// It is on its way or to be asked for.
    Wait,
    /// All was given on.
    End,
}

/// A chunk whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// So many zeros.
    Zeros(usize),
    /// These bytes.
    Bytes(Bytes),
}

impl<'a> Plan<'a> {
    /// Nothing has come yet but what the pack `holds`.
    pub(super) fn new(chunks: &'a [Chunk], holds: impl Fn(&Chunk) -> bool) -> Self {
        let mut seen = HashSet::new();
        let states = chunks
            .iter()
            .map(|chunk| match chunk {
                chunk if chunk.is_zero() => State::Zero,
                // The second of two equal ones is in the pack once the first was given on.
                chunk if holds(chunk) || !seen.insert(*chunk) => State::Held,
                _ => State::Wanted,
            })
            .collect();
        Self {
            chunks,
            states,
            ready: BTreeMap::new(),
            again: BTreeSet::new(),
            head: 0,
            cursor: 0,
            ahead: 0,
        }
    }

    /// The chunks of the next request, of about `plain` bytes and at least one. What the pack `holds` by now is not
    /// asked for.
    pub(super) fn ask(&mut self, plain: u32, holds: impl Fn(&Chunk) -> bool) -> Option<Vec<u32>> {
        let mut indices = Vec::new();
        let mut bytes = 0;
        while indices.len() < MAX_CHUNKS_PER_REQUEST {
            let Some(index) = self.next_wanted() else { break };
            if holds(&self.chunks[index]) {
                self.states[index] = State::Held;
                self.again.remove(&index);
                continue;
            }
            let len = u64::from(self.chunks[index].len);
            let full = bytes + len > u64::from(plain) && bytes > 0;
            // Nothing else can make room for the chunk whose turn it is.
            let too_far = self.ahead + len > MAX_AHEAD && index != self.head;
            if full || too_far {
                break;
            }
            bytes += len;
            self.ahead += len;
            self.states[index] = State::Asked;
            self.again.remove(&index);
            indices.push(u32::try_from(index).expect("a list is bounded by its blob's size"));
        }
        (!indices.is_empty()).then_some(indices)
    }

    fn next_wanted(&mut self) -> Option<usize> {
        if let Some(index) = self.again.first() {
            return Some(*index);
        }
        while self
            .states
            .get(self.cursor)
            .is_some_and(|state| *state != State::Wanted)
        {
            self.cursor += 1;
        }
        (self.cursor < self.states.len()).then_some(self.cursor)
    }

    /// A chunk is here. Whether or not it was asked for.
    pub(super) fn put(&mut self, index: usize, bytes: Bytes) {
        match self.states[index] {
            State::Asked => {}
            State::Wanted | State::Held => self.ahead += bytes.len() as u64,
            State::Zero | State::Ready => return,
        }
        self.again.remove(&index);
        self.states[index] = State::Ready;
        self.ready.insert(index, bytes);
    }

    /// A chunk is not in the pack after all.
    pub(super) fn missing(&mut self, index: usize) {
        if self.states[index] == State::Held {
            self.states[index] = State::Wanted;
            self.again.insert(index);
        }
    }

    /// What to do about the next chunk; what it gives is not given again.
    pub(super) fn head(&mut self) -> Head {
        let Some(state) = self.states.get(self.head) else {
            return Head::End;
        };
        let given = match state {
            State::Held => return Head::Load,
            State::Wanted | State::Asked => return Head::Wait,
            State::Zero => Given::Zeros(self.chunks[self.head].len as usize),
            State::Ready => {
                let bytes = self.ready.remove(&self.head).expect("what is ready is here");
                self.ahead -= bytes.len() as u64;
                Given::Bytes(bytes)
            }
        };
        self.head += 1;
        Head::Give(given)
    }

    /// The chunks to read from the pack now: the next one and what follows without a gap.
    pub(super) fn run(&self) -> Vec<usize> {
        let mut bytes = 0;
        (self.head..self.chunks.len())
            .take_while(|index| matches!(self.states[*index], State::Held | State::Zero))
            .take_while(|index| {
                bytes += u64::from(self.chunks[*index].len);
                bytes <= MAX_RUN
            })
            .filter(|index| self.states[*index] == State::Held)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u8, len: u32) -> Chunk {
        Chunk { hash: [n; 32], len }
    }

    fn bytes(n: u8) -> Bytes {
        Bytes::from(vec![n; 10])
    }

    #[test]
    fn chunks_are_given_in_order_whatever_comes_first() {
        let chunks = [1, 2, 0, 3].map(|n| chunk(n, 10));
        let mut plan = Plan::new(&chunks, |_| false);
        assert_eq!(plan.ask(20, |_| false), Some(vec![0, 1]));
        assert_eq!(plan.ask(20, |_| false), Some(vec![3]));
        assert_eq!(plan.ask(20, |_| false), None);
        plan.put(3, bytes(3));
        plan.put(1, bytes(2));
        assert_eq!(plan.head(), Head::Wait);
        plan.put(0, bytes(1));
        let give = |n| Head::Give(Given::Bytes(bytes(n)));
        assert_eq!(plan.head(), give(1));
        assert_eq!(plan.head(), give(2));
        assert_eq!(plan.head(), Head::Give(Given::Zeros(10)));
        assert_eq!(plan.head(), give(3));
        assert_eq!(plan.head(), Head::End);
        assert_eq!(plan.ahead, 0);
    }

    #[test]
    fn what_is_held_is_read_and_what_is_not_after_all_is_asked_for() {
        let chunks = [1, 0, 2, 3, 1].map(|n| chunk(n, 10));
        let mut plan = Plan::new(&chunks, |chunk| chunk.hash[0] <= 2);
        assert_eq!(plan.ask(99, |_| false), Some(vec![3]));
        assert_eq!(plan.head(), Head::Load);
        assert_eq!(plan.run(), [0, 2]);
        plan.put(0, bytes(1));
        plan.missing(2);
        assert!(matches!(plan.head(), Head::Give(_)));
        assert!(matches!(plan.head(), Head::Give(Given::Zeros(_))));
        assert_eq!(plan.head(), Head::Wait);
        assert_eq!(plan.ask(99, |_| false), Some(vec![2]));
    }

    #[test]
    fn what_has_come_into_the_pack_meanwhile_is_not_asked_for() {
        let chunks = [1, 2, 3].map(|n| chunk(n, 10));
        let mut plan = Plan::new(&chunks, |_| false);
        assert_eq!(plan.ask(10, |_| false), Some(vec![0]));
        assert_eq!(plan.ask(10, |chunk| chunk.hash[0] == 2), Some(vec![2]));
        plan.put(0, bytes(1));
        assert!(matches!(plan.head(), Head::Give(_)));
        assert_eq!(plan.head(), Head::Load);
        assert_eq!(plan.run(), [1]);
        // Nor is the first one, and that it is there after all shows at once.
        let mut plan = Plan::new(&chunks[..1], |_| false);
        assert_eq!(plan.ask(10, |_| true), None);
        assert_eq!(plan.head(), Head::Load);
    }

    #[test]
    fn the_second_of_two_equal_chunks_is_not_asked_for() {
        let chunks = [1, 1].map(|n| chunk(n, 10));
        let mut plan = Plan::new(&chunks, |_| false);
        assert_eq!(plan.ask(99, |_| false), Some(vec![0]));
        assert_eq!(plan.ask(99, |_| false), None);
        plan.put(0, bytes(1));
        assert!(matches!(plan.head(), Head::Give(_)));
        assert_eq!(plan.head(), Head::Load);
        assert_eq!(plan.run(), [1]);
    }

    #[test]
    fn what_waits_for_an_earlier_chunk_is_bounded() {
        let len = 256 * 1024;
        let chunks: Vec<_> = (1..=64).map(|n| chunk(n, len)).collect();
        let mut plan = Plan::new(&chunks, |chunk| chunk.hash[0] == 1);
        let mut asked = 0;
        while let Some(indices) = plan.ask(len, |_| false) {
            asked += indices.len() as u64;
        }
        assert_eq!(asked * u64::from(len), MAX_AHEAD);
        // The first is not in the pack after all: it is asked for although no room is left.
        plan.missing(0);
        assert_eq!(plan.ask(len, |_| false), Some(vec![0]));
        assert_eq!(plan.ask(len, |_| false), None);
    }
}
