//! The words of the domain as types. A value that exists is valid.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

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
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
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
    };
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
        compact_str::format_compact!("{}:{}", self.kind, self.id)
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
        let id = id.parse::<u64>().map_err(|_| WordError::ResourceId)?;
        Self::new(kind.parse()?, id)
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

/// A time in whole milliseconds since 1970-01-01 UTC, up to the end of the year 9999. In JSON it
/// is RFC 3339 with three decimals and `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTime(u64);

impl EventTime {
    /// 9999-12-31T23:59:59.999Z.
    pub const MAX_MILLIS: u64 = 253_402_300_799_999;

    /// A time from milliseconds since 1970; later than the year 9999 is held at its end.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX_MILLIS {
            Self(Self::MAX_MILLIS)
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to a civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
        // civil_from_days. A date library's formatter costs more than the rest of the event.
        let (days, millis) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute) = (millis / 3_600_000, millis / 60_000 % 60);
        let (second, milli) = (millis / 1_000 % 60, millis % 1_000);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
    }
}

impl FromStr for EventTime {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let bad = || WordError::Time(text.to_owned());
        let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| bad())?;
        if millis > Self::MAX_MILLIS {
            return Err(bad());
        }
        Ok(Self(millis))
    }
}

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
