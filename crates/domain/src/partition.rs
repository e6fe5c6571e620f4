//! Which partition a resource lives in, and what a position is.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A partition's number, from 0.
pub type Partition = u32;

/// A record's place in its partition. Offsets strictly increase; they may have gaps.
pub type Offset = u64;

/// A log's identity, made once when the log is created.
pub type LogId = uuid::Uuid;

/// One record's place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// The record's offset in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.offset, self.partition)
    }
}

/// The partition a key lives in, as the default partitioner of Kafka's Java client chooses it
/// (`Utils.toPositive(Utils.murmur2(key)) % partitions`), so that any keyed producer agrees.
/// `partitions` of 0 is read as 1.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> Partition {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// MurmurHash2, 32 bits, with the seed of Kafka's Java client
/// (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Java's length is an i32 as well; a key is at most 64 KiB here.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// A position as clients hold it: opaque text that also names the log.
///
/// Layout before base64url without padding: version (1 byte, 1), the first 8 bytes of the log's
/// id, partition (u32 LE), offset (u64 LE), CRC-32C of all before it (u32 LE): 25 bytes, 34
/// characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionToken {
    log: [u8; 8],
    /// The position it names.
    pub position: Position,
}

/// Why a token can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token this service gave out.
    #[error("the position token is malformed")]
    Malformed,
    /// A token of another log.
    #[error("the position token belongs to another log")]
    OtherLog,
}

impl PositionToken {
    const VERSION: u8 = 1;
    const BYTES: usize = 1 + 8 + 4 + 8 + 4;

    /// The token of a position in a log.
    #[must_use]
    pub fn new(log: LogId, position: Position) -> Self {
        Self {
            log: prefix(log),
            position,
        }
    }

    /// The position, where the token is of this log.
    ///
    /// # Errors
    /// [`TokenError::OtherLog`] where it is not.
    pub fn position_in(self, log: LogId) -> Result<Position, TokenError> {
        if self.log == prefix(log) {
            Ok(self.position)
        } else {
            Err(TokenError::OtherLog)
        }
    }
}

fn prefix(log: LogId) -> [u8; 8] {
    log.as_u64_pair().0.to_be_bytes()
}

impl fmt::Display for PositionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.push(Self::VERSION);
        bytes.extend_from_slice(&self.log);
        bytes.extend_from_slice(&self.position.partition.to_le_bytes());
        bytes.extend_from_slice(&self.position.offset.to_le_bytes());
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        Base64Display::new(&bytes, &URL_SAFE_NO_PAD).fmt(f)
    }
}

impl FromStr for PositionToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; Self::BYTES];
        let n = URL_SAFE_NO_PAD
            .decode_slice(text, &mut bytes)
            .map_err(|_| TokenError::Malformed)?;
        if n != bytes.len() {
            return Err(TokenError::Malformed);
        }
        let (body, check) = bytes
            .split_first_chunk::<21>()
            .ok_or(TokenError::Malformed)?;
        let (head, offset) = body.split_last_chunk::<8>().ok_or(TokenError::Malformed)?;
        let (head, partition) = head.split_last_chunk::<4>().ok_or(TokenError::Malformed)?;
        let (version, log) = head.split_last_chunk::<8>().ok_or(TokenError::Malformed)?;
        if version != [Self::VERSION] || check != crc32c::crc32c(body).to_le_bytes() {
            return Err(TokenError::Malformed);
        }
        let position = Position {
            partition: u32::from_le_bytes(*partition),
            offset: u64::from_le_bytes(*offset),
        };
        Ok(Self {
            log: *log,
            position,
        })
    }
}
