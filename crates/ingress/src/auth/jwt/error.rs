//! Why a token is refused.

/// What is said where no keys could be had.
pub(crate) const NO_KEYS: &str =
    "The keys that tokens are checked with are not known at the moment.";

/// Why a token is refused. The text is the answer's `detail`: it says no more than clients of this
/// API's family read elsewhere; what it was exactly is in the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is longer than a token may be.
    #[error("Given token not valid for any token type")]
    TooLong,
    /// It is not three parts of base64url with JSON objects in the first two, or a name is there
    /// twice.
    #[error("Given token not valid for any token type")]
    Malformed,
    /// Its header has a `crit`: something that must be understood, and is not.
    #[error("Given token not valid for any token type")]
    Critical,
    /// It is signed in a way that is not configured, or not at all.
    #[error("Given token not valid for any token type")]
    Algorithm,
    /// It names a key that is not known, or none where there are several.
    #[error("Given token not valid for any token type")]
    UnknownKey,
    /// The signature is not that of any key it could be of.
    #[error("Given token not valid for any token type")]
    Signature,
    /// It is over.
    #[error("Token is expired")]
    Expired,
    /// It begins later.
    #[error("Given token not valid for any token type")]
    NotYetValid,
    /// It is somebody else's, or says nobody's.
    #[error("Given token not valid for any token type")]
    Issuer,
    /// It is meant for others, or for nobody.
    #[error("Given token not valid for any token type")]
    Audience,
    /// Its end is missing, or a time is none.
    #[error("Given token not valid for any token type")]
    Claims,
    /// It is one to get others with, say.
    #[error("Given token not valid for any token type")]
    Type,
    /// It does not say whose it is.
    #[error("Token contained no recognizable user identification")]
    NoUser,
    /// No keys could be had until now. No fault of the token: the answer is 503.
    #[error("{}", NO_KEYS)]
    NoKeys,
}

impl JwtError {
    /// All there are.
    pub const ALL: [Self; 14] = [
        Self::TooLong,
        Self::Malformed,
        Self::Critical,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Claims,
        Self::Type,
        Self::NoUser,
        Self::NoKeys,
    ];

    /// The answer's `code`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::NoKeys => "unavailable",
            Self::TooLong
            | Self::Malformed
            | Self::Critical
            | Self::Algorithm
            | Self::UnknownKey
            | Self::Signature
            | Self::NotYetValid
            | Self::Issuer
            | Self::Audience
            | Self::Claims
            | Self::Type
            | Self::NoUser => "token_not_valid",
        }
    }

    /// The metric's label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Critical => "token_critical_header",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Claims => "token_claims",
            Self::Type => "token_type",
            Self::NoUser => "token_no_user",
            Self::NoKeys => "token_no_keys",
        }
    }

    /// Whether newer keys could make a difference.
    pub(in crate::auth) const fn may_pass(self) -> bool {
        match self {
            Self::UnknownKey | Self::NoKeys => true,
            Self::TooLong
            | Self::Malformed
            | Self::Critical
            | Self::Algorithm
            | Self::Signature
            | Self::Expired
            | Self::NotYetValid
            | Self::Issuer
            | Self::Audience
            | Self::Claims
            | Self::Type
            | Self::NoUser => false,
        }
    }
}
