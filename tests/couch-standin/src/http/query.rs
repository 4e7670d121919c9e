//! Parameters of listings, from the query string and from the body of a POST.

use axum::http::Method;
use serde_json::{Map, Value};

use super::reply::ApiError;
use crate::attachment::AttachmentForm;

/// Parameters by name. In the query string keys are JSON and ids are not; the body of a POST overrides it.
#[derive(Debug, Default)]
pub(crate) struct Params(Map<String, Value>);

impl Params {
    /// Reads the query string.
    pub(crate) fn from_query(query: Option<&str>) -> Result<Self, ApiError> {
        let mut params = Map::new();
        for (name, text) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let value = match &*name {
                "key" | "keys" | "startkey" | "start_key" | "endkey" | "end_key" => {
                    serde_json::from_str(&text).map_err(|_| ApiError::bad_request("invalid UTF-8 JSON"))?
                }
                _ => Value::String(text.into_owned()),
            };
            params.insert(name.into_owned(), value);
        }
        Ok(Self(params))
    }

    /// Reads the query string and, of a POST, the body.
    pub(crate) fn of_request(method: &Method, query: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        let mut params = Self::from_query(query)?;
        if method == Method::POST && !body.is_empty() {
            match serde_json::from_slice(body) {
                Ok(Value::Object(members)) => params.0.extend(members),
                Ok(_) => return Err(ApiError::bad_request("Request body must be a JSON object")),
                Err(_) => return Err(ApiError::bad_request("invalid UTF-8 JSON")),
            }
        }
        Ok(params)
    }

    fn take(&mut self, names: &[&str]) -> Option<Value> {
        names.iter().filter_map(|name| self.0.remove(*name)).next_back()
    }

    pub(crate) fn text(&mut self, names: &[&str]) -> Option<String> {
        self.take(names).map(|value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(&[name]).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::query(format!("Invalid boolean parameter: {other:?}"))),
        }
    }

    pub(crate) fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text(&[name]) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| ApiError::query(format!("Invalid value for positive integer: {text:?}")))
    }
}

/// How far rows are put together by a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// All rows into one.
    Whole,
    /// By the first items of array keys.
    Level(usize),
    /// By the whole key.
    Exact,
}

/// Parameters of a view or of `_all_docs`.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery {
    pub(crate) start: Option<Value>,
    pub(crate) start_id: Option<String>,
    pub(crate) end: Option<Value>,
    pub(crate) end_id: Option<String>,
    pub(crate) keys: Option<Vec<Value>>,
    pub(crate) limit: usize,
    pub(crate) skip: usize,
    pub(crate) descending: bool,
    pub(crate) inclusive_end: bool,
    pub(crate) include_docs: bool,
    pub(crate) attachments: AttachmentForm,
    pub(crate) reduce: Option<bool>,
    pub(crate) grouping: Grouping,
}

impl ListQuery {
    pub(crate) fn parse(mut params: Params) -> Result<Self, ApiError> {
        let key = params.take(&["key"]);
        let grouping = match (params.flag("group")?, params.count("group_level")?) {
            (_, Some(0)) => Grouping::Whole,
            (_, Some(level)) => Grouping::Level(level),
            (Some(true), None) => Grouping::Exact,
            _ => Grouping::Whole,
        };
        let keys = match params.take(&["keys"]) {
            None => None,
            Some(Value::Array(keys)) => Some(keys),
            Some(_) => return Err(ApiError::bad_request("`keys` member must be an array.")),
        };
        let is_inline = params.flag("attachments")? == Some(true);
        Ok(Self {
            start: params.take(&["startkey", "start_key"]).or_else(|| key.clone()),
            start_id: params.text(&["startkey_docid", "start_key_doc_id"]),
            end: params.take(&["endkey", "end_key"]).or(key),
            end_id: params.text(&["endkey_docid", "end_key_doc_id"]),
            keys,
            limit: params.count("limit")?.unwrap_or(usize::MAX),
            skip: params.count("skip")?.unwrap_or(0),
            descending: params.flag("descending")?.unwrap_or(false),
            inclusive_end: params.flag("inclusive_end")?.unwrap_or(true),
            include_docs: params.flag("include_docs")?.unwrap_or(false),
            attachments: if is_inline {
                AttachmentForm::Inline
            } else {
                AttachmentForm::Stubs
            },
            reduce: params.flag("reduce")?,
            grouping,
        })
    }
}
