//! Fields that carry their bounds in their type. What they say on error never holds what they found.

use std::fmt::{self, Display};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use shared::resource::RateLimits;

/// A string of at least one character.
#[derive(Debug)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            expected("a string of at least one character")
        } else {
            Ok(Self(text))
        }
    }
}

/// A vendor's slug, such as `openai`.
#[derive(Debug)]
pub struct Vendor(pub String);

impl<'de> Deserialize<'de> for Vendor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let later = |c: char| first(c) || matches!(c, '.' | '_' | '-');
        if text.len() <= 64 && text.starts_with(first) && text.chars().all(later) {
            Ok(Self(text))
        } else {
            expected("1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or a digit")
        }
    }
}

/// An integer within bounds.
#[derive(Debug)]
pub struct Integer<const MIN: u64, const MAX: u64>(pub u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Integer<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            number if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => expected(format_args!("an integer between {MIN} and {MAX}")),
        }
    }
}

impl<const MIN: u64, const MAX: u64> Integer<MIN, MAX> {
    /// The number, for a bound that fits.
    pub fn as_u32(&self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// The number, for a bound that fits.
    pub fn as_u16(&self) -> u16 {
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }
}

/// An integer without a smallest bound but its type's.
pub type Count32 = Integer<0, { u32::MAX as u64 }>;
/// The same, from 1.
pub type Positive32 = Integer<1, { u32::MAX as u64 }>;
/// An integer from 1.
pub type Positive64 = Integer<1, { u64::MAX }>;
/// Any HTTP status.
pub type Status = Integer<100, 599>;

/// A number that is not negative.
#[derive(Debug)]
pub struct NotNegative(pub f64);

impl<'de> Deserialize<'de> for NotNegative {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if number >= 0.0 { Ok(Self(number)) } else { expected("a number that is not negative") }
    }
}

/// A number between 0 and 1.
#[derive(Debug)]
pub struct Share(());

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&number) {
            Ok(Self(()))
        } else {
            expected("a number between 0 and 1")
        }
    }
}

/// A list of at least one item.
#[derive(Debug)]
pub struct Filled<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Filled<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<T>::deserialize(deserializer)?;
        if items.is_empty() { expected("at least one item") } else { Ok(Self(items)) }
    }
}

/// A `T` that is written as an object. A derived `T` alone would take a list of its fields as well.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// For a field that may be left out but not be null: with `#[serde(default, deserialize_with = "present")]`.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn expected<T, E: Error>(what: impl Display) -> Result<T, E> {
    Err(E::custom(format_args!("expected {what}")))
}

/// Limits of requests, tokens and concurrency, as keys and models carry them. A limit that is null is none, in models too,
/// whose schema would have it left out.
#[derive(Debug, Deserialize)]
pub struct RateLimit {
    concurrency: Option<Count32>,
    rpd: Option<u64>,
    rph: Option<u64>,
    rpm: Option<u64>,
    rps: Option<u64>,
    tpd: Option<u64>,
    tpm: Option<u64>,
}

impl RateLimit {
    /// As workers take it.
    pub fn limits(&self) -> RateLimits {
        let Self { rpd, rph, rpm, rps, tpd, tpm, .. } = *self;
        let concurrency = self.concurrency.as_ref().and_then(|count| u32::try_from(count.0).ok());
        RateLimits { rps, rpm, rph, rpd, tpm, tpd, concurrency }
    }
}
