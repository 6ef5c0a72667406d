//! Whether a request comes from our own pages.
//!
//! A browser sends cookies along with requests that other sites start. It also says, in `Origin`
//! and `Sec-Fetch-Site`, which site that was, and no site can change that.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};
use serde::{Deserialize, Deserializer, de};

/// Scheme, host and port of a site: `https://cloud.example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    secure: bool,
    authority: String,
}

impl Origin {
    /// The origin of what listens here, without TLS.
    pub fn of_listener(listen: SocketAddr) -> Self {
        Self { secure: false, authority: listen.to_string() }
    }

    /// Is it reached by HTTPS?
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority)
    }
}

impl FromStr for Origin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("“{text}” is not like https://cloud.example.org");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (secure, default_port) = match uri.scheme_str() {
            Some("https") => (true, ":443"),
            Some("http") => (false, ":80"),
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.contains('@') {
            return Err(wrong());
        }
        // As browsers write it: in small letters, without the scheme's own port.
        let authority = authority.to_ascii_lowercase();
        let authority = authority.strip_suffix(default_port).unwrap_or(&authority).to_owned();
        Ok(Self { secure, authority })
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a request's headers say of the site that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Our own pages.
    Own,
    /// Another site.
    Foreign,
    /// Nothing is said: a program, or a very old browser.
    Unknown,
}

impl Site {
    /// Reads `Origin` and `Sec-Fetch-Site`. Ours are the public origin and, for an installation
    /// that is reached under another name as well, the host the request itself was sent to.
    pub fn of(headers: &HeaderMap, public: &Origin) -> Self {
        let text = |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or("?"));
        if let Some(origin) = text(ORIGIN) {
            let Ok(origin) = origin.parse::<Origin>() else { return Self::Foreign };
            let host = text(HOST).unwrap_or_default().to_ascii_lowercase();
            let scheme = if origin.secure { "https" } else { "http" };
            let to_itself = format!("{scheme}://{host}").parse::<Origin>().is_ok_and(|own| own == origin);
            return if origin == *public || to_itself { Self::Own } else { Self::Foreign };
        }
        match text(http::HeaderName::from_static("sec-fetch-site")) {
            // `none`: typed into the address bar, or a bookmark.
            Some("same-origin" | "none") => Self::Own,
            Some(_) => Self::Foreign,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let origin = |text: &str| text.parse::<Origin>().map(|o| o.to_string());
        assert_eq!(origin("https://Cloud.Example.org:443/").as_deref(), Ok("https://cloud.example.org"));
        assert_eq!(origin("http://127.0.0.1:7700").as_deref(), Ok("http://127.0.0.1:7700"));
        for bad in
            ["", "cloud.example.org", "ftp://x", "https://x/path", "https://x?q", "https://u@x", "null"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_our_own_pages_are_ours() {
        let public: Origin = "https://cloud.example.org".parse().expect("an origin");
        let site = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            Site::of(&pairs.collect(), &public)
        };
        assert_eq!(site(&[]), Site::Unknown);
        assert_eq!(site(&[("origin", "https://cloud.example.org")]), Site::Own);
        assert_eq!(site(&[("origin", "http://10.0.0.5:7700"), ("host", "10.0.0.5:7700")]), Site::Own);
        assert_eq!(site(&[("origin", "https://evil.example"), ("host", "cloud.example.org")]), Site::Foreign);
        assert_eq!(site(&[("origin", "http://cloud.example.org"), ("host", "x")]), Site::Foreign);
        assert_eq!(site(&[("origin", "null")]), Site::Foreign);
        assert_eq!(
            site(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]),
            Site::Foreign
        );
        assert_eq!(site(&[("sec-fetch-site", "same-origin")]), Site::Own);
        assert_eq!(site(&[("sec-fetch-site", "cross-site")]), Site::Foreign);
        assert_eq!(site(&[("sec-fetch-site", "same-site")]), Site::Foreign);
    }
}
