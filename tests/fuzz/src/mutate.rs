//! Mutations: what turns inputs that mean something into inputs that nearly do.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Numbers at which code goes wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    7,
    8,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// The same as text.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1e999",
    "0.1",
    "255",
    "65536",
    "4294967296",
    "9223372036854775808",
    "18446744073709551616",
    "00",
];

/// Random enough to mutate, and the same for the same seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, name).hash(&mut hasher);
        Self(hasher.finish())
    }

    /// `SplitMix64`.
    pub(crate) fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.any() % bound).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.any().to_le_bytes()[0]
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> Option<&'a T> {
        let at = self.below(all.len());
        all.get(at).copied()
    }
}

/// An input of the corpus or one that was kept, mutated; at most `limit` bytes.
pub(crate) fn mutated(
    chance: &mut Chance,
    corpus: &[Vec<u8>],
    kept: &[Vec<u8>],
    words: &[&str],
    limit: usize,
) -> Vec<u8> {
    let mut input = one(chance, corpus, kept).to_vec();
    // Mostly few, now and then many.
    for _ in 0..1 << chance.below(5) {
        match chance.below(4) {
            0 => bits(chance, &mut input),
            1 => pieces(chance, &mut input),
            2 => {
                let other = one(chance, corpus, kept);
                splice(chance, &mut input, other);
            }
            _ => text(chance, &mut input, words),
        }
        input.truncate(limit);
    }
    input
}

fn one<'a>(chance: &mut Chance, corpus: &'a [Vec<u8>], kept: &'a [Vec<u8>]) -> &'a [u8] {
    let from = if kept.is_empty() || chance.below(3) == 0 {
        corpus
    } else {
        kept
    };
    let at = chance.below(from.len());
    from.get(at).map(Vec::as_slice).unwrap_or_default()
}

/// Where to do something, and to how many bytes.
fn range(chance: &mut Chance, input: &[u8]) -> std::ops::Range<usize> {
    let at = chance.below(input.len() + 1);
    let most = (input.len() - at).min(1 << chance.below(10));
    at..at + chance.below(most + 1)
}

/// Changes bytes and keeps the length.
fn bits(chance: &mut Chance, input: &mut [u8]) {
    let at = chance.below(input.len());
    let edge = EDGES[chance.below(EDGES.len())];
    let rest = input.get_mut(at..).unwrap_or_default();
    let put = |rest: &mut [u8], number: &[u8]| {
        for (byte, new) in rest.iter_mut().zip(number) {
            *byte = *new;
        }
    };
    match chance.below(7) {
        0 | 1 => rest
            .iter_mut()
            .take(1)
            .for_each(|byte| *byte ^= 1 << chance.below(8)),
        2 => rest
            .iter_mut()
            .take(1)
            .for_each(|byte| *byte = chance.byte()),
        3 => rest
            .iter_mut()
            .take(1)
            .for_each(|byte| *byte = byte.wrapping_add(1)),
        4 => put(rest, &edge.to_le_bytes()[..1 << chance.below(4)]),
        5 => put(rest, &edge.to_be_bytes()[8 - (1 << chance.below(4))..]),
        _ => rest
            .iter_mut()
            .take(8)
            .for_each(|byte| *byte = byte.wrapping_sub(1)),
    }
}

/// Removes, repeats, moves or fills a piece.
fn pieces(chance: &mut Chance, input: &mut Vec<u8>) {
    let range = range(chance, input);
    match chance.below(6) {
        0 => drop(input.drain(range)),
        1 => input.truncate(range.start),
        2 => {
            let piece = input[range.clone()].to_vec();
            let times = 1 << chance.below(8);
            let piece = piece.repeat(if piece.len() < 16 { times } else { 1 });
            drop(input.splice(range.start..range.start, piece));
        }
        3 => {
            let piece: Vec<u8> = input.drain(range).collect();
            let to = chance.below(input.len() + 1);
            drop(input.splice(to..to, piece));
        }
        4 => {
            let byte = chance.byte();
            input[range].fill(byte);
        }
        _ => {
            let new: Vec<u8> = (0..chance.below(9)).map(|_| chance.byte()).collect();
            drop(input.splice(range.start..range.start, new));
        }
    }
}

/// Puts a piece of another input in; at the same place or at another, instead of a piece or before.
fn splice(chance: &mut Chance, input: &mut Vec<u8>, other: &[u8]) {
    let from = range(chance, other);
    let at = if chance.below(2) == 0 {
        from.start.min(input.len())
    } else {
        chance.below(input.len() + 1)
    };
    let until = if chance.below(2) == 0 {
        (at + from.len()).min(input.len())
    } else {
        at
    };
    drop(input.splice(at..until, other[from].iter().copied()));
}

/// Puts a word or a number in, before or instead of what stands there.
fn text(chance: &mut Chance, input: &mut Vec<u8>, words: &[&str]) {
    let word = match chance.below(3) {
        0 => chance.of(&NUMBERS).unwrap_or_default(),
        _ => chance.of(words).unwrap_or_default(),
    };
    let at = chance.below(input.len() + 1);
    let number = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let after = input[at..].iter().take_while(|byte| number(byte)).count();
    let until = if chance.below(2) == 0 { at + after } else { at };
    drop(input.splice(at..until, word.bytes()));
}
