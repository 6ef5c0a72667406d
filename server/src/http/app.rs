//! The web app: files that Trunk built, and for every address of a page its `index.html`.
//!
//! A file whose name holds the hash of its content never changes and is kept by browsers; every
//! other is asked for again. What stands compressed beside a file (`.br`, `.gz`) is sent instead.
//! The Content-Security-Policy names the hashes of the scripts and styles that stand in
//! `index.html` itself, so none other can run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_model::ErrorCode;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;
use tower_http::services::{ServeDir, ServeFile};

use super::Origin;
use super::problem::Problem;

/// Serves the app from its folder.
#[derive(Debug, Clone)]
pub struct App {
    folder: PathBuf,
    origin: Origin,
    policy: Arc<Mutex<Option<(SystemTime, HeaderValue)>>>,
}

impl App {
    /// The app in `folder`, whose pages talk to `origin`.
    pub fn new(folder: PathBuf, origin: Origin) -> Self {
        Self { folder, origin, policy: Arc::default() }
    }

    /// Is there an app?
    pub fn exists(&self) -> bool {
        self.index().is_file()
    }

    fn index(&self) -> PathBuf {
        self.folder.join("index.html")
    }

    async fn serve(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read || path.starts_with("/v1/") || path == "/v1" {
            return nothing_here();
        }
        let is_page = wants_page(&request, &path);
        let answer = if is_page {
            let index = ServeFile::new(self.index()).precompressed_br().precompressed_gzip();
            index.oneshot(request).await.map(|response| response.map(Body::new))
        } else {
            let files = ServeDir::new(&self.folder).precompressed_br().precompressed_gzip();
            let files = files.append_index_html_on_directories(false);
            files.oneshot(request).await.map(|response| response.map(Body::new))
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if response.status() == StatusCode::NOT_FOUND {
            return nothing_here();
        }
        let cache =
            if !is_page && has_hash(&path) { "public, max-age=31536000, immutable" } else { "no-cache" };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        let is_html = |value: &HeaderValue| value.as_bytes().starts_with(b"text/html");
        if is_page || response.headers().get(CONTENT_TYPE).is_some_and(is_html) {
            match self.policy() {
                Ok(policy) => response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy),
                Err(error) => return Problem::internal(error).into_response(),
            };
        }
        response
    }

    /// The policy for `index.html` as it is now: it may be built anew while we run.
    fn policy(&self) -> anyhow::Result<HeaderValue> {
        let changed = std::fs::metadata(self.index())?.modified()?;
        let mut known = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, policy)) = &*known
            && *of == changed
        {
            return Ok(policy.clone());
        }
        let html = std::fs::read_to_string(self.index())?;
        let policy = HeaderValue::from_str(&policy_of(&html, &self.origin))?;
        *known = Some((changed, policy.clone()));
        Ok(policy)
    }
}

/// The fallback of the router: a file, a page, or nothing.
pub async fn app(State(app): State<App>, request: Request) -> Response {
    app.serve(request).await
}

/// What there is no route for.
pub fn nothing_here() -> Response {
    Problem::new(ErrorCode::NotFound, "There is nothing here.").into_response()
}

/// A route there is, but not with this method.
pub async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not offered for {}.", uri.path());
    let mut response = Problem::new(ErrorCode::NotFound, message).into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// A person opened an address of the app: `/`, `/servers/7`. A file's name has a dot.
fn wants_page(request: &Request, path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    let accepts = request.headers().get_all(ACCEPT).iter();
    let html = accepts.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"));
    path == "/" || path == "/index.html" || (html && !last.contains('.'))
}

/// Does a part of the path end with a hash, as Trunk writes it: `app-9f86d081884c7d65_bg.wasm`?
fn has_hash(path: &str) -> bool {
    path.split('/').any(|part| {
        let stem = part.split('.').next().unwrap_or_default();
        let stem = stem.strip_suffix("_bg").unwrap_or(stem);
        let hash = stem.rsplit('-').next().unwrap_or_default();
        hash.len() >= 8 && hash.len() < stem.len() && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn policy_of(html: &str, origin: &Origin) -> String {
    let socket = origin.to_string().replacen("http", "ws", 1);
    let mut policy = String::from("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'");
    // Writing to a String cannot fail.
    for text in inline(html, "script") {
        let _ = write!(policy, " 'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    }
    policy.push_str("; style-src 'self'");
    for text in inline(html, "style") {
        let _ = write!(policy, " 'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    }
    let _ = write!(
        policy,
        "; connect-src 'self' {socket}; img-src 'self' data:; font-src 'self'; manifest-src 'self'; \
         worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    policy
}

/// The texts between `<tag …>` and `</tag>`. Enough for the page that our own build writes: tags in
/// small letters, no `>` in attributes.
fn inline<'a>(html: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
    let mut texts = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once(&open) {
        rest = after;
        let is_tag = after.starts_with(|c: char| c == '>' || c.is_ascii_whitespace());
        let Some((attributes, content)) = after.split_once('>') else { break };
        if !is_tag {
            continue;
        }
        let Some((text, after)) = content.split_once(&close) else { break };
        if !attributes.contains(" src=") && !text.is_empty() {
            texts.push(text);
        }
        rest = after;
    }
    texts
}

/// The folder of the app, for a message at start.
pub fn describe(folder: &Path) -> String {
    format!("{} has no index.html: only the API is served", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_page_may_run() {
        let html = "<!doctype html><head><style>a{}</style><styles>x</styles>\
                    <script src=\"/a.js\"></script><script type=\"module\">go()</script></head>";
        assert_eq!(inline(html, "script"), ["go()"]);
        assert_eq!(inline(html, "style"), ["a{}"]);
        let policy = policy_of(html, &"https://cloud.example.org".parse().expect("an origin"));
        // printf 'go()' | openssl dgst -sha256 -binary | base64
        let hash = BASE64_STANDARD.encode(Sha256::digest("go()"));
        assert!(
            policy.contains(&format!("script-src 'self' 'wasm-unsafe-eval' 'sha256-{hash}';")),
            "{policy}"
        );
        assert!(policy.contains("connect-src 'self' wss://cloud.example.org;"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        for kept in [
            "/app-9f86d081884c7d65_bg.wasm",
            "/style-0a1b2c3d.css",
            "/snippets/berth-0123456789abcdef/inline0.js",
        ] {
            assert!(has_hash(kept), "{kept}");
        }
        for asked in ["/", "/index.html", "/icons/logo-small.svg", "/manifest.json", "/deadbeef.js", "/sw.js"]
        {
            assert!(!has_hash(asked), "{asked}");
        }
    }
}
