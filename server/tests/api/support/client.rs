//! HTTP clients of a control plane.

use berth_model::ErrorBody;
use berth_model::error::ApiError;
use http::{HeaderMap, Method, StatusCode};
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Somebody with an HTTP client: a stranger, a browser with a session, a program with a token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    shows: Vec<(&'static str, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Client {
    pub fn new(base: &str) -> Self {
        // Plain HTTP only; but the client is built for TLS and asks for this.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        Self { http: http.build().unwrap(), base: base.to_owned(), shows: Vec::new() }
    }

    /// The same without anything to show.
    pub fn stranger(&self) -> Self {
        Self { shows: Vec::new(), ..self.clone() }
    }

    /// The same, asking another control plane; its pages are that one's.
    pub fn at(self, base: &str) -> Self {
        let has_origin = self.shows.iter().any(|(name, _)| *name == "origin");
        let moved = Self { base: base.to_owned(), ..self };
        if has_origin { moved.with("origin", base) } else { moved }
    }

    /// A browser on our own page.
    pub fn with_session(self, secret: &str) -> Self {
        let origin = self.base.clone();
        self.with("cookie", &format!("berth_session={secret}")).with("origin", &origin)
    }

    pub fn with_token(self, secret: &str) -> Self {
        self.with("authorization", &format!("Bearer {secret}"))
    }

    /// The same with this header on every request.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.shows.retain(|(shown, _)| *shown != name);
        self.shows.push((name, value.to_owned()));
        self
    }

    /// The same without this header.
    pub fn without(mut self, name: &str) -> Self {
        self.shows.retain(|(shown, _)| *shown != name);
        self
    }

    /// A request to be completed by hand and sent with [`Reply::of`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        self.shows.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let request = self.request(method, path);
        Reply::of(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, None).await
    }
}

impl Reply {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub fn expect<T: DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The error of an answer that must be one, with the status its code asks for.
    #[track_caller]
    pub fn error(&self) -> ApiError {
        assert!(!self.status.is_success(), "{}: {}", self.status, self.text);
        let body: ErrorBody =
            serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text));
        body.error
    }

    /// The error's code as it is on the wire: `not_found`.
    #[track_caller]
    pub fn code(&self) -> String {
        let _ = self.error();
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    /// Asserts `invalid_input` that names this field with a sentence.
    #[track_caller]
    pub fn refuses(&self, field: &str) {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (422, "invalid_input"), "{}", self.text);
        assert!(self.error().for_field(field).is_some_and(|m| !m.is_empty()), "not {field}: {}", self.text);
    }

    /// The value of the cookie that was set.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        cookies.filter_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('=')?.split(';').next()).next()
    }
}
