//! How the domain's types lie in columns: instants, words, JSON documents. Used with `#[sqlx(try_from = …)]`.

use domain::job::{JobKind, JobState, LogLevel};
use domain::machine::{PowerState, Quiesce};
use domain::mode::{IfStillOn, Mode};
use domain::permission::Role;
use domain::point::{Consistency, PointKind};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type, ValueRef};

/// 2000-01-01T00:00:00Z, from which Postgres counts microseconds, in microseconds of Unix time.
const POSTGRES_EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// A `timestamptz`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub Timestamp);

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0.as_microsecond() - POSTGRES_EPOCH_MICROSECONDS, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Err("an instant came as text".into());
        }
        let microseconds = <i64 as Decode<Postgres>>::decode(value)?;
        let unix = microseconds.checked_add(POSTGRES_EPOCH_MICROSECONDS).ok_or("an instant beyond the calendar")?;
        Ok(Self(Timestamp::from_microsecond(unix)?))
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        time.0
    }
}

macro_rules! nullable {
    ($(#[$doc:meta])* $name:ident: $column:ty => $value:ty, $from:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name(Option<$value>);

        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <$column as Type<Postgres>>::type_info()
            }

            fn compatible(info: &PgTypeInfo) -> bool {
                <$column as Type<Postgres>>::compatible(info)
            }
        }

        impl<'r> Decode<'r, Postgres> for $name {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                if value.is_null() {
                    return Ok(Self(None));
                }
                let column = <$column as Decode<Postgres>>::decode(value)?;
                Ok(Self(Some($from(column)?)))
            }
        }

        impl From<$name> for Option<$value> {
            fn from(nullable: $name) -> Self {
                nullable.0
            }
        }
    };
}

nullable!(
    /// A `timestamptz` that may be null.
    MaybeTime: Time => Timestamp, |time: Time| Ok::<_, BoxDynError>(time.0)
);
nullable!(
    /// Bytes in a `bigint` that may be null.
    MaybeBytes: i64 => u64, u64::try_from
);

/// A word of one of the domain's enums, in a `text` column.
pub(crate) struct Word(String);

impl Type<Postgres> for Word {
    fn type_info() -> PgTypeInfo {
        <String as Type<Postgres>>::type_info()
    }

    fn compatible(info: &PgTypeInfo) -> bool {
        <String as Type<Postgres>>::compatible(info)
    }
}

impl<'r> Decode<'r, Postgres> for Word {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <String as Decode<Postgres>>::decode(value).map(Self)
    }
}

macro_rules! words {
    ($($name:ty),+ $(,)?) => {$(
        impl TryFrom<Word> for $name {
            type Error = WordError;

            fn try_from(word: Word) -> Result<Self, WordError> {
                let words: StrDeserializer<'_, WordError> = word.0.as_str().into_deserializer();
                Self::deserialize(words)
            }
        }
    )+};
}

words!(JobKind, JobState, LogLevel, PowerState, Quiesce, Mode, IfStillOn, Role, Consistency, PointKind);
words!(crate::devices::FullReads, crate::devices::Platform, crate::devices::Transport);
words!(domain::notice::NoticeKind, domain::notice::NoticeSeverity, crate::notices::DeliveryState);
words!(crate::tasks::Method, crate::runs::RunKind, crate::workers::WorkerKind);
words!(domain::foreign::Maker);
words!(crate::journal::ChangeKind, crate::journal::ChangeState, crate::accounts::Theme, crate::drafts::DraftKind);

/// A size on its way into a `bigint`.
pub(crate) const fn size(bytes: u64) -> i64 {
    if bytes > i64::MAX as u64 { i64::MAX } else { bytes as i64 }
}
