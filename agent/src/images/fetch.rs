//! Fetching files from elsewhere.
//!
//! # What may be fetched from where
//!
//! The control plane is trusted, but the URL it passes on may be a customer's. A node stands in networks that
//! customers do not: its own services, the neighbours' management ports, a cloud's metadata service. An answer
//! from there would become an image that the customer boots and reads. So names are resolved here, and every
//! address that is connected to (the first and those of redirects) must be a public one, unless
//! `images.fetch_private` says that the operator's own mirror stands in a private network. Proxies of the
//! environment are not used: behind one, the address could not be looked at. Only `http` and `https` are
//! spoken; what was sent is proved by the checksum, not by the way it came.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use berth_model::agent::{Checksum, ImageFetch, ImageFile, ImageFormat};
use berth_model::{ByteSize, ErrorCode, FieldError};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, Url};
use serde::{Deserialize, Serialize};

use super::convert::checksums;
use super::{Images, SPACE_CHECK_BYTES, inside, quarantine, write_failed};
use crate::error::Refusal;
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// Longest URL, in bytes.
const URL_MAX_BYTES: usize = 2000;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Tries without a byte of progress before it is given up.
const TRIES: u32 = 5;
/// Pause before the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong with a request.
pub fn faults(wanted: &ImageFetch) -> Vec<FieldError> {
    let message =
        "A URL begins with https:// or http://, has at most 2000 characters, and no user or password.";
    match url(&wanted.url) {
        Some(_) => Vec::new(),
        None => vec![FieldError { name: "url".to_owned(), messages: vec![message.to_owned()] }],
    }
}

fn url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= URL_MAX_BYTES)?;
    let fine = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.username().is_empty()
        && url.password().is_none();
    fine.then_some(url)
}

/// A part of a file, in the quarantine.
struct Part {
    path: PathBuf,
    note: PathBuf,
    file: File,
    have: u64,
    known: Known,
}

/// What is known of the file that the part is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    url: String,
    /// A strong entity tag: the same bytes.
    etag: Option<String>,
}

/// Why a try ended.
enum Ended {
    /// By the network; what came is kept.
    Cut(String),
    /// By something that would be the same next time; nothing is kept.
    Refused(Refusal),
}

impl Images {
    /// Brings a file here from a URL.
    pub fn fetch(&self, cx: &Cx, checksum: &Checksum, wanted: &ImageFetch) -> Result<ImageFile, Refusal> {
        let bad_url = || Refusal(berth_model::error::ApiError::fields(faults(wanted)));
        let from = url(&wanted.url).ok_or_else(bad_url)?;
        if let Some(known) = self.of_checksum(checksum)? {
            if known.format == wanted.format {
                return Ok(known);
            }
            let message = format!("The file is on the node already, as {}.", known.format.word());
            return Err(Refusal::field("format", message));
        }
        let Ok(_slot) = self.imports.try_acquire() else {
            return Err(Refusal::unavailable(
                "Other images are being imported; try again when they are done.",
            ));
        };
        let mut part = Part::open(&quarantine::folder(&self.folder), checksum, &from)?;
        match tokio::runtime::Handle::current().block_on(self.download(cx, &mut part, &from)) {
            Ok(()) => {}
            Err(Ended::Cut(why)) => {
                let (have, host) = (ByteSize(part.have).as_mib(), from.host_str().unwrap_or_default());
                return Err(Refusal::unavailable(format!(
                    "{host} was cut off after {have} MiB: {why}. Told again, it goes on from there."
                )));
            }
            Err(Ended::Refused(refusal)) => {
                part.remove()?;
                return Err(refusal);
            }
        }
        let kept = self.look_and_keep(cx, checksum, wanted, &part);
        // It was kept under its name, or is refused.
        part.remove()?;
        kept
    }

    fn look_and_keep(
        &self,
        cx: &Cx,
        checksum: &Checksum,
        wanted: &ImageFetch,
        part: &Part,
    ) -> Result<ImageFile, Refusal> {
        part.file.sync_all().map_err(|e| write_failed(&e))?;
        let (sha256, sha512) = checksums(cx, &part.path)?;
        let found = if checksum.0.len() == 64 { &sha256 } else { &sha512 };
        if *found != checksum.0 {
            let message = format!("The file's checksum is {found}; it is another file, or was damaged.");
            return Err(Refusal::field("checksum", message));
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&part.path, fs::Permissions::from_mode(0o644)).map_err(|e| write_failed(&e))?;
        cx.phase("Look inside", 0);
        inside::look(&part.path, wanted.format)?.map_err(|why| Refusal::field("url", why))?;
        if !matches!(wanted.format, ImageFormat::Iso | ImageFormat::Raw)
            && let Some(why) = inside::check_tables(cx, &part.path, wanted.format)?
        {
            return Err(Refusal::field("url", why));
        }
        faults::point("image.after_check").map_err(HypervisorError::from)?;
        let _held = self.uses.hold(&sha256)?;
        if checksum.0.len() == 128 {
            fs::write(self.sha512_note(checksum), &sha256).map_err(|e| write_failed(&e))?;
        }
        self.keep(&part.path, &sha256, wanted.format)?;
        self.wanted(&sha256)
    }

    /// The file of a checksum, if it is here.
    fn of_checksum(&self, checksum: &Checksum) -> Result<Option<ImageFile>, Refusal> {
        if checksum.0.len() == 64 {
            return self.find(&checksum.0);
        }
        match fs::read_to_string(self.sha512_note(checksum)) {
            Ok(sha256) if crate::spec::is_sha256(&sha256) => self.find(&sha256),
            _ => Ok(None),
        }
    }

    /// Says which file has this SHA-512.
    fn sha512_note(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join(format!("{checksum}.sha512"))
    }

    /// Leaves no note that names an image.
    pub(super) fn forget_sha512(&self, sha256: &str) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_note = path.extension().is_some_and(|extension| extension == "sha512");
            if is_note && fs::read_to_string(&path).is_ok_and(|noted| noted == sha256) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    async fn download(&self, cx: &Cx, part: &mut Part, from: &Url) -> Result<(), Ended> {
        let client = client(self.settings.fetch_private, self.silence).map_err(Ended::Refused)?;
        if !self.settings.fetch_private && private_host(from) {
            return Err(private());
        }
        let mut tries = 0;
        loop {
            let before = part.have;
            match self.try_once(cx, part, &client, from).await {
                Err(Ended::Cut(why)) => {
                    tries = if part.have > before { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(Ended::Cut(why));
                    }
                }
                ended => return ended,
            }
            tokio::time::sleep(PAUSE).await;
            cancelled(cx)?;
        }
    }

    /// One request; it goes on where the part ends.
    async fn try_once(&self, cx: &Cx, part: &mut Part, client: &Client, from: &Url) -> Result<(), Ended> {
        let mut request = client.get(from.clone()).header(header::ACCEPT_ENCODING, "identity");
        if part.have > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.have));
            if let Some(etag) = &part.known.etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = request.send().await.map_err(|e| not_sent(&e))?;
        if !self.begins_where_we_are(part, &response)? {
            return Ok(());
        }
        let max = ByteSize::gib(self.settings.max_gib).bytes();
        let more = response.content_length();
        let total = more.map(|more| part.have.saturating_add(more));
        if total.is_some_and(|total| total > max) {
            return Err(Ended::Refused(too_large(self.settings.max_gib)));
        }
        self.check_space(more.unwrap_or(0)).map_err(Ended::Refused)?;
        part.note(&response)?;
        cx.phase("Fetch the file", total.unwrap_or(0));
        cx.done(part.have);
        let mut body = response.bytes_stream();
        let mut unchecked_bytes = 0;
        while let Some(chunk) = body.next().await {
            cancelled(cx)?;
            let chunk = chunk.map_err(|e| not_sent(&e))?;
            if part.have.saturating_add(chunk.len() as u64) > max {
                return Err(Ended::Refused(too_large(self.settings.max_gib)));
            }
            part.file.write_all(&chunk).map_err(|e| Ended::Refused(write_failed(&e)))?;
            part.have += chunk.len() as u64;
            cx.done(part.have);
            unchecked_bytes += chunk.len();
            if unchecked_bytes >= SPACE_CHECK_BYTES {
                unchecked_bytes = 0;
                self.check_space(0).map_err(Ended::Refused)?;
            }
            faults::point("image.after_chunk").map_err(|e| Ended::Cut(e.to_string()))?;
        }
        match total {
            Some(total) if part.have < total => Err(Ended::Cut("the connection was closed".to_owned())),
            _ => Ok(()),
        }
    }

    /// Brings the part to where the answer begins; false if all of the file is here.
    fn begins_where_we_are(&self, part: &mut Part, response: &Response) -> Result<bool, Ended> {
        let range = content_range(response.headers());
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range.and_then(|(from, _)| from) == Some(part.have) => Ok(true),
            StatusCode::PARTIAL_CONTENT => {
                part.begin_anew()?;
                Err(Ended::Cut("the server sent another part than was asked for".to_owned()))
            }
            StatusCode::OK => {
                part.begin_anew()?;
                Ok(true)
            }
            StatusCode::RANGE_NOT_SATISFIABLE if range.and_then(|(_, total)| total) == Some(part.have) => {
                Ok(false)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                part.begin_anew()?;
                Err(Ended::Cut("the file has changed".to_owned()))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Ended::Cut(format!("the server answers {status}")))
            }
            status => Err(Ended::Refused(Refusal::field("url", format!("The server answers {status}.")))),
        }
    }
}

impl Part {
    fn open(folder: &std::path::Path, checksum: &Checksum, from: &Url) -> Result<Self, Refusal> {
        let path = folder.join(format!("{checksum}.part"));
        let note = folder.join(format!("{checksum}.part.json"));
        let own = |e: std::io::Error| write_failed(&e);
        let file = File::options().create(true).append(true).read(true).open(&path).map_err(own)?;
        let have = file.metadata().map_err(own)?.len();
        let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Known>(&text).ok());
        let known = known.filter(|known| known.url == from.as_str());
        let known = known.unwrap_or_else(|| Known { url: from.to_string(), etag: None });
        Ok(Self { path, note, file, have, known })
    }

    fn begin_anew(&mut self) -> Result<(), Ended> {
        self.file.set_len(0).map_err(|e| Ended::Refused(write_failed(&e)))?;
        self.have = 0;
        self.known.etag = None;
        Ok(())
    }

    /// Notes what the next try needs.
    fn note(&mut self, response: &Response) -> Result<(), Ended> {
        let etag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        self.known.etag = etag.filter(|tag| tag.starts_with('"')).map(str::to_owned);
        let text = serde_json::to_vec(&self.known).expect("a note is JSON");
        fs::write(&self.note, text).map_err(|e| Ended::Refused(write_failed(&e)))
    }

    fn remove(&self) -> Result<(), Refusal> {
        for path in [&self.path, &self.note] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Refusal::own("A part of a file could not be removed", &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `bytes 5-9/10` and `bytes */10`: where it begins, and how long the whole is.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    Some((range.split_once('-').and_then(|(from, _)| from.trim().parse().ok()), total.trim().parse().ok()))
}

fn cancelled(cx: &Cx) -> Result<(), Ended> {
    cx.check().map_err(|e| Ended::Refused(e.into()))
}

fn too_large(max_gib: u64) -> Refusal {
    Refusal::field("url", format!("The file is larger than {max_gib} GiB."))
}

fn private() -> Ended {
    let message =
        "The URL leads to a private address; images.fetch_private in the agent's configuration allows that.";
    Ended::Refused(Refusal::field("url", message))
}

/// What an error of the way there means.
fn not_sent(error: &reqwest::Error) -> Ended {
    let mut why: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(e) = why {
        if e.is::<PrivateAddress>() {
            return private();
        }
        last = e.to_string();
        why = e.source();
    }
    if error.is_redirect() {
        return Ended::Refused(Refusal::field("url", format!("The URL leads astray: {last}.")));
    }
    Ended::Cut(last)
}

/// An address that is not public.
#[derive(Debug, thiserror::Error)]
#[error("it is a private address")]
struct PrivateAddress;

/// Finds public addresses only.
struct PublicOnly;

impl reqwest::dns::Resolve for PublicOnly {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let all: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<_> = all.iter().copied().filter(|address| is_public(address.ip())).collect();
            if public.is_empty() && !all.is_empty() {
                return Err(PrivateAddress.into());
            }
            let public: reqwest::dns::Addrs = Box::new(public.into_iter());
            Ok(public)
        })
    }
}

fn client(private_too: bool, silence: Duration) -> Result<Client, Refusal> {
    // Set already where the agent speaks TLS itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirect = reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("too many redirects");
        }
        if !private_too && private_host(attempt.url()) {
            return attempt.error(PrivateAddress);
        }
        if url(attempt.url().as_str()).is_none() {
            attempt.error("neither http nor https")
        } else {
            attempt.follow()
        }
    });
    let client = Client::builder()
        .no_proxy()
        .redirect(redirect)
        .connect_timeout(CONNECT_PATIENCE)
        .read_timeout(silence)
        .referer(false)
        .user_agent(concat!("berth-agent/", env!("CARGO_PKG_VERSION")));
    let client = if private_too { client } else { client.dns_resolver(std::sync::Arc::new(PublicOnly)) };
    client.build().map_err(|e| Refusal::new(ErrorCode::ServerError, format!("TLS cannot be set up: {e}")))
}

/// Is the URL's host an address, and not a public one? Names are looked at when they are resolved.
fn private_host(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.parse().is_ok_and(|ip| !is_public(ip))
}

/// Can anybody be reached there (IANA's special-purpose registries)?
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (b == 18 || b == 19))
        || (a == 192 && b == 0 && c == 0))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(v4(high, low))
        }
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Everything else that is public begins with 001.
        [first, second, ..] => {
            first & 0xe000 == 0x2000 && !(first == 0x2001 && (second == 0xdb8 || second == 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let _proof = crate::proof::pure(&["image.fetch"]);
        let private = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 \
                       224.0.0.1 198.18.0.1 ::1 :: fe80::1 fd00::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::10.0.0.1 \
                       2002:7f00:1::1 2001:db8::1 ::127.0.0.1";
        for text in private.split_whitespace() {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["9.9.9.9", "100.128.0.1", "2620:fe::fe", "::ffff:9.9.9.9", "64:ff9b::9.9.9.9"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_url_that_could_mean_something_else_is_refused() {
        let _proof = crate::proof::pure(&["image.fetch"]);
        for bad in [
            "",
            "file:///etc/shadow",
            "ftp://a/b",
            "https://",
            "https://me:secret@a/b",
            "http://me@a/b",
            "a/b",
        ] {
            assert_eq!(url(bad), None, "{bad}");
        }
        assert_eq!(url(&format!("https://a/{}", "b".repeat(2000))), None);
        let odd = ["http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://127.1/"];
        assert!(odd.iter().all(|text| private_host(&url(text).unwrap())));
        assert!(!private_host(&url("https://images.example.org/a").unwrap()));
    }

    #[test]
    fn a_range_is_read() {
        let of = |text: &str| {
            content_range(&HeaderMap::from_iter([(header::CONTENT_RANGE, text.parse().unwrap())]))
        };
        assert_eq!(of("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(of("bytes */10"), Some((None, Some(10))));
        assert_eq!(of("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(of("lines 5-9/10"), None);
    }

    proptest! {
        #[test]
        fn no_header_and_no_url_break_the_agent(text in "\\PC{0,60}", range in "(bytes )?[0-9*/-]{0,40}") {
            let _read = url(&text).map(|url| private_host(&url));
            if let Ok(value) = range.parse() {
                let _read = content_range(&HeaderMap::from_iter([(header::CONTENT_RANGE, value)]));
            }
        }
    }
}
