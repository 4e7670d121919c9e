//! PostgreSQL's binary COPY format, and the values that are put into it.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Microseconds from the Unix epoch to PostgreSQL's own, 2000-01-01.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// Signature, flags and length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Text(&'a str),
    Time(DateTime<Utc>),
    Bool(bool),
    Small(i16),
    Int(i32),
    Big(i64),
    Uuid(Uuid),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(text: &'a Option<String>) -> Self {
        text.as_deref().map_or(Self::Null, Self::Text)
    }
}

macro_rules! value_from {
    ($($variant:ident: $type:ty),*) => {$(
        impl From<$type> for Value<'_> {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }

        impl From<Option<$type>> for Value<'_> {
            fn from(value: Option<$type>) -> Self {
                value.map_or(Self::Null, Self::$variant)
            }
        }
    )*};
}
value_from!(Time: DateTime<Utc>, Bool: bool, Small: i16, Int: i32, Big: i64, Uuid: Uuid);

/// A time as PostgreSQL stores it: whole microseconds since 2000, finer parts dropped.
pub(crate) fn microseconds(time: DateTime<Utc>) -> i64 {
    // No chrono date is so far off that its microseconds leave i64, with or without the shift.
    time.timestamp_micros().saturating_sub(EPOCH_2000)
}

impl Value<'_> {
    /// Appends the value's length and bytes.
    pub(crate) fn put(self, out: &mut BytesMut) {
        match self {
            Self::Null => out.put_i32(-1),
            Self::Text(text) => {
                // No text of a row comes near 2 GiB: it was part of one Couch document.
                out.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
                out.put_slice(text.as_bytes());
            }
            Self::Time(time) => {
                out.put_i32(8);
                out.put_i64(microseconds(time));
            }
            Self::Bool(value) => {
                out.put_i32(1);
                out.put_u8(u8::from(value));
            }
            Self::Small(value) => {
                out.put_i32(2);
                out.put_i16(value);
            }
            Self::Int(value) => {
                out.put_i32(4);
                out.put_i32(value);
            }
            Self::Big(value) => {
                out.put_i32(8);
                out.put_i64(value);
            }
            Self::Uuid(value) => {
                out.put_i32(16);
                out.put_slice(value.as_bytes());
            }
        }
    }
}

/// A COPY stream that is sent in pieces.
pub(crate) struct CopyBuffer {
    out: BytesMut,
}

impl CopyBuffer {
    /// Pieces of this size keep the socket busy and the memory small.
    const PIECE: usize = 256 * 1024;

    /// A stream that so far holds its header.
    pub(crate) fn new() -> Self {
        let mut out = BytesMut::with_capacity(Self::PIECE + Self::PIECE / 4);
        out.put_slice(HEADER);
        Self { out }
    }

    /// Begins a row of so many columns; their values follow.
    pub(crate) fn row(&mut self, columns: usize) -> &mut BytesMut {
        // A table has at most 1600 columns.
        self.out.put_i16(i16::try_from(columns).unwrap_or(i16::MAX));
        &mut self.out
    }

    /// A piece to send, once enough has gathered.
    pub(crate) fn piece(&mut self) -> Option<Bytes> {
        (self.out.len() >= Self::PIECE).then(|| self.out.split().freeze())
    }

    /// The last piece, with the trailer.
    pub(crate) fn end(mut self) -> Bytes {
        self.out.put_i16(-1);
        self.out.freeze()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_microseconds_since_2000() {
        for (text, expected) in [
            ("2000-01-01T00:00:00Z", 0),
            ("2000-01-01T00:00:01.000002Z", 1_000_002),
            ("2000-01-01T00:00:00.000001999Z", 1),
            ("1999-12-31T23:59:59.999999Z", -1),
            ("1970-01-01T00:00:00Z", -EPOCH_2000),
        ] {
            assert_eq!(microseconds(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn rows_have_counts_and_lengths() {
        let mut buffer = CopyBuffer::new();
        let row = buffer.row(3);
        Value::from("é").put(row);
        Value::from(None::<i32>).put(row);
        Value::from(7_i16).put(row);
        let bytes = buffer.end();
        let mut expected = HEADER.to_vec();
        expected.extend([
            0, 3, 0, 0, 0, 2, 0xc3, 0xa9, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2, 0, 7, 0xff, 0xff,
        ]);
        assert_eq!(bytes, expected);
    }
}
