//! Message headers: text on our side, typed values on the wire.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::BrokerError;

pub(super) fn to_table(headers: &BTreeMap<String, String>) -> Result<FieldTable, BrokerError> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        let key = ShortString::try_new(name.as_str()).map_err(|_| BrokerError::HeaderName(name.len()))?;
        table.insert(key, AMQPValue::LongString(value.as_str().into()));
    }
    Ok(table)
}

/// Text and whole numbers; other values (the broker's history of a dead letter) are for people with a console.
pub(super) fn from_properties(properties: &BasicProperties) -> BTreeMap<String, String> {
    let Some(table) = properties.headers() else {
        return BTreeMap::new();
    };
    table
        .into_iter()
        .filter_map(|(name, value)| {
            let text = match value {
                AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
                AMQPValue::ShortString(text) => text.to_string(),
                AMQPValue::ShortShortInt(number) => number.to_string(),
                AMQPValue::ShortShortUInt(number) => number.to_string(),
                AMQPValue::ShortInt(number) => number.to_string(),
                AMQPValue::ShortUInt(number) => number.to_string(),
                AMQPValue::LongInt(number) => number.to_string(),
                AMQPValue::LongUInt(number) => number.to_string(),
                AMQPValue::LongLongInt(number) => number.to_string(),
                _ => return None,
            };
            Some((name.to_string(), text))
        })
        .collect()
}
