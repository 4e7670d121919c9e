//! A bare HTTP client for the tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use url::Url;

/// Nothing in these tests takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Talks to one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Arc<Url>,
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self {
            http,
            base: Arc::new(Url::parse(base).unwrap()),
        }
    }

    /// A request to a path that may have a query; credentials in the base URL are sent along.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let mut url = self.base.join(path).unwrap();
        let (user, password) = (url.username().to_owned(), url.password().map(str::to_owned));
        url.set_username("").unwrap();
        url.set_password(None).unwrap();
        let request = self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if user.is_empty() {
            request
        } else {
            request.basic_auth(user, password)
        }
    }

    /// Status and JSON of an answer; text that is not JSON comes as a string.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        read(self.request(method, path)).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        read(self.request(method, path).json(body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path).await;
        assert_eq!(status, 200, "GET {path}: {value}");
        value
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.send("PUT", path, body).await;
        assert_eq!(status, 201, "PUT {path}: {value}");
        value
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.send("POST", path, body).await;
        assert!(matches!(status, 200 | 201), "POST {path}: {value}");
        value
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A key or another JSON parameter, ready for a query string.
pub(crate) fn encoded(value: &Value) -> String {
    url::form_urlencoded::byte_serialize(value.to_string().as_bytes()).collect()
}

/// The ids of the rows of a listing.
pub(crate) fn ids(listing: &Value) -> Vec<String> {
    let rows = listing["rows"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}
