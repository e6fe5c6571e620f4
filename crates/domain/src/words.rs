//! The words of the domain as types. A value that exists is valid.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use compact_str::CompactString;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::partition::{Partition, partition_of};
pub use crate::time::EventTime;

/// Why a text is not one of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// Not one of [`ResourceType::ALL`].
    #[error(
        "{0:?} is not a resource type; valid are quest, ai_note, ai_expert, podcast, collection, publication, ai_video, profile"
    )]
    ResourceType(String),
    /// Not one of [`InteractionType::ALL`].
    #[error(
        "{0:?} is not an interaction type; valid are view, like, unlike, share, bookmark, unbookmark, comment"
    )]
    InteractionType(String),
    /// Not `0..=2^63-1`.
    #[error("a resource id is an integer from 0 to 9223372036854775807")]
    ResourceId,
    /// Empty or too long.
    #[error("a user is 1 to {} bytes", UserId::MAX_BYTES)]
    User,
    /// Empty, too long, or with characters outside printable ASCII.
    #[error(
        "an idempotency key is 1 to {} printable ASCII characters",
        IdempotencyKey::MAX_BYTES
    )]
    IdempotencyKey,
    /// Not `type:id`.
    #[error("a resource is written type:id, as in ai_note:15")]
    Resource,
    /// Not an RFC 3339 time in the years 1970 to 9999.
    #[error("{0:?} is not an RFC 3339 time between the years 1970 and 9999")]
    Time(String),
}

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident, $error:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// Every value, in the contract's order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word as it stands in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// The place in [`Self::ALL`]; it is part of the state's encoding and never changes.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The value with this [`code`](Self::code).
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                Self::ALL.get(usize::from(code)).copied()
            }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    other => Err(WordError::$error(other.to_owned())),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        // A derived one would also take `{"view":null}`.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed::NEW)
            }
        }
    };
}

/// Reads a string and parses it, without a copy of it.
pub(crate) struct Parsed<T>(PhantomData<T>);

impl<T> Parsed<T> {
    pub(crate) const NEW: Self = Self(PhantomData);
}

impl<T: FromStr<Err = WordError>> Visitor<'_> for Parsed<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

word_enum! {
    /// What kind of content a resource is.
    ResourceType, ResourceType {
        /// A quest.
        Quest = "quest",
        /// An AI note.
        AiNote = "ai_note",
        /// An AI expert.
        AiExpert = "ai_expert",
        /// A podcast.
        Podcast = "podcast",
        /// A collection.
        Collection = "collection",
        /// A publication.
        Publication = "publication",
        /// An AI video.
        AiVideo = "ai_video",
        /// A profile.
        Profile = "profile",
    }
}

word_enum! {
    /// What a user did.
    InteractionType, InteractionType {
        /// Looked at it.
        View = "view",
        /// Set the like toggle.
        Like = "like",
        /// Cleared the like toggle.
        Unlike = "unlike",
        /// Shared it.
        Share = "share",
        /// Set the bookmark toggle.
        Bookmark = "bookmark",
        /// Cleared the bookmark toggle.
        Unbookmark = "unbookmark",
        /// Commented on it.
        Comment = "comment",
    }
}

/// A resource's integer, `0..=2^63-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ResourceId(u64);

impl ResourceId {
    /// The largest id.
    pub const MAX: u64 = i64::MAX as u64;

    /// The integer.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for ResourceId {
    type Error = WordError;
    fn try_from(id: u64) -> Result<Self, WordError> {
        if id <= Self::MAX {
            Ok(Self(id))
        } else {
            Err(WordError::ResourceId)
        }
    }
}

impl From<ResourceId> for u64 {
    fn from(id: ResourceId) -> u64 {
        id.0
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A piece of content: a type and an integer. Written `ai_note:15` as a record's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// What kind of content.
    pub kind: ResourceType,
    /// Which one of that kind.
    pub id: ResourceId,
}

impl Resource {
    /// A resource, where the id is in range.
    ///
    /// # Errors
    /// [`WordError::ResourceId`] past 2^63-1.
    pub fn new(kind: ResourceType, id: u64) -> Result<Self, WordError> {
        Ok(Self {
            kind,
            id: ResourceId::try_from(id)?,
        })
    }

    /// The record key, `ai_note:15`: it decides the partition, in either log.
    #[must_use]
    pub fn key(self) -> CompactString {
        // Not by way of `format!`: every record's partition is checked by its key.
        let mut key = CompactString::new(self.kind.as_str());
        key.push(':');
        key.push_str(itoa::Buffer::new().format(self.id.get()));
        key
    }

    /// The partition it lives in, in a log of `partitions`.
    #[must_use]
    pub fn partition(self, partitions: u32) -> Partition {
        partition_of(self.key().as_bytes(), partitions)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

impl FromStr for Resource {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let (kind, id) = text.split_once(':').ok_or(WordError::Resource)?;
        let parsed = id.parse::<u64>().map_err(|_| WordError::ResourceId)?;
        // `+15` and `015` are numbers too, but no resource is written so.
        if itoa::Buffer::new().format(parsed) != id {
            return Err(WordError::ResourceId);
        }
        Self::new(kind.parse()?, parsed)
    }
}

impl InteractionType {
    /// Whether it sets or unsets a toggle of its user.
    #[must_use]
    pub const fn sets_toggle(self) -> bool {
        match self {
            Self::View | Self::Share | Self::Comment => false,
            Self::Like | Self::Unlike | Self::Bookmark | Self::Unbookmark => true,
        }
    }
}

/// The authenticated subject, 1 to 128 bytes of text. The same string is the same user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "CompactString", into = "CompactString")]
pub struct UserId(CompactString);

impl UserId {
    /// The longest user, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A user, where the length is in range.
    ///
    /// # Errors
    /// [`WordError::User`] when empty or over 128 bytes.
    pub fn new(user: impl Into<CompactString>) -> Result<Self, WordError> {
        let user = user.into();
        if user.is_empty() || user.len() > Self::MAX_BYTES {
            return Err(WordError::User);
        }
        Ok(Self(user))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many bytes it takes beside its own place: none up to 24 bytes of text.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        if self.0.is_heap_allocated() {
            self.0.capacity()
        } else {
            0
        }
    }
}

impl TryFrom<CompactString> for UserId {
    type Error = WordError;
    fn try_from(user: CompactString) -> Result<Self, WordError> {
        Self::new(user)
    }
}

impl From<UserId> for CompactString {
    fn from(user: UserId) -> CompactString {
        user.0
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's name for one interaction, 1 to 255 printable ASCII characters, scoped to
/// (user, resource).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "CompactString", into = "CompactString")]
pub struct IdempotencyKey(CompactString);

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// A key, where length and characters are in range.
    ///
    /// # Errors
    /// [`WordError::IdempotencyKey`] when empty, over 255 bytes, or not printable ASCII.
    pub fn new(key: impl Into<CompactString>) -> Result<Self, WordError> {
        let key = key.into();
        let printable = key.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if key.is_empty() || key.len() > Self::MAX_BYTES || !printable {
            return Err(WordError::IdempotencyKey);
        }
        Ok(Self(key))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<CompactString> for IdempotencyKey {
    type Error = WordError;
    fn try_from(key: CompactString) -> Result<Self, WordError> {
        Self::new(key)
    }
}

impl From<IdempotencyKey> for CompactString {
    fn from(key: IdempotencyKey) -> CompactString {
        key.0
    }
}

/// An event's identity, a UUID of version 7.
pub type EventId = uuid::Uuid;

/// One interaction, immutable once appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its identity.
    pub id: EventId,
    /// When the server accepted it.
    pub at: EventTime,
    /// Who did it.
    pub user: UserId,
    /// On what.
    pub resource: Resource,
    /// What was done.
    pub interaction: InteractionType,
    /// The client's name for it.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// How often each kind of interaction stands on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Views ever.
    pub views: u64,
    /// Users who like it now.
    pub likes: u64,
    /// Shares ever.
    pub shares: u64,
    /// Users who have it bookmarked now.
    pub bookmarks: u64,
    /// Comments ever.
    pub comments: u64,
}

/// What one user has set on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Toggles {
    /// The user likes it.
    pub liked: bool,
    /// The user has it bookmarked.
    pub bookmarked: bool,
}

impl Toggles {
    /// Nothing set: the same as never touched.
    pub const NONE: Self = Self {
        liked: false,
        bookmarked: false,
    };

    /// One byte: bit 0 liked, bit 1 bookmarked.
    #[must_use]
    pub fn to_bits(self) -> u8 {
        u8::from(self.liked) | u8::from(self.bookmarked) << 1
    }

    /// From [`to_bits`](Self::to_bits); `None` where another bit is set.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits <= 3).then_some(Self {
            liked: bits & 1 != 0,
            bookmarked: bits & 2 != 0,
        })
    }
}
