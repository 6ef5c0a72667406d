//! Pure decisions: which addresses may be reached, what an event is called, when it is tried again.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use berth_model::FieldError;
use berth_model::webhook::EVENT_KINDS;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use serde_json::Value;
use sha2::Sha256;

use crate::http::Network;
use crate::servers::rules::fault;

/// Most characters of a name.
const NAME_MAX_CHARS: usize = 64;
/// Most bytes of an address.
const URL_MAX_BYTES: usize = 2048;
/// The pause after the first failed try; it doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest pause between two tries of one delivery.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The longest pause of a webhook whose tries fail one after the other.
const WEBHOOK_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What is not public, though some of it looks so (IANA's registries of special addresses).
const SPECIAL: [&str; 20] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    // Of IPv6 only 2000::/3 is public, and of that not these: they are tunnels, or for documents.
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "3ffe::/16",
    "64:ff9b::/96",
];

static SPECIAL_NETWORKS: LazyLock<Vec<Network>> =
    LazyLock::new(|| SPECIAL.iter().map(|text| text.parse().expect("a network")).collect());

/// May a webhook reach this address? Public ones, and those of networks that the operator allows.
pub fn may_reach(address: IpAddr, allowed: &[Network]) -> bool {
    let address = address.to_canonical();
    let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
    let is_global = match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    };
    is_in(allowed) || is_global && !is_in(&SPECIAL_NETWORKS)
}

/// The host of an address, an IPv6 one without brackets, and its port.
pub fn target(url: &Url) -> Option<(String, u16)> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port_or_known_default()?))
}

/// Everything that is wrong with what is asked of a webhook; what is absent is not asked.
pub fn faults(
    name: Option<&str>,
    url: Option<&str>,
    kinds: Option<&[String]>,
    allowed: &[Network],
) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if let Some(name) = name
        && (!(1..=NAME_MAX_CHARS).contains(&name.trim().chars().count())
            || name.chars().any(char::is_control))
    {
        faults.push(fault("name", "A name has 1 to 64 characters, and no line breaks."));
    }
    if let Some(message) = url.and_then(|url| url_fault(url, allowed)) {
        faults.push(fault("url", message));
    }
    for (at, kind) in kinds.unwrap_or_default().iter().enumerate() {
        if !EVENT_KINDS.contains(&kind.as_str()) {
            let message = format!("There are events of these kinds: {}.", EVENT_KINDS.join(", "));
            faults.push(fault(format!("kinds[{at}]"), message));
        }
    }
    faults
}

fn url_fault(text: &str, allowed: &[Network]) -> Option<&'static str> {
    const NOT_ONE: &str = "Enter an address like https://example.org/hook, of at most 2048 characters.";
    let Ok(url) = Url::parse(text) else { return Some(NOT_ONE) };
    let Some((host, _)) = target(&url) else { return Some(NOT_ONE) };
    if !["https", "http"].contains(&url.scheme()) || text.len() > URL_MAX_BYTES {
        return Some(NOT_ONE);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("Leave user name and password out: deliveries are signed instead.");
    }
    let address: Option<IpAddr> = host.parse().ok();
    let is_refused = address.is_some_and(|address| !may_reach(address, allowed));
    is_refused.then_some("This address is not public.")
}

/// What a change is called, and what a delivery holds of it; nothing of a change that is not told.
pub fn event(change: &str) -> Option<(&'static str, Value)> {
    let mut change: Value = serde_json::from_str(change).ok()?;
    let fields = change.as_object_mut()?;
    let kind = fields.remove("kind")?;
    let kind = match kind.as_str()? {
        "server" => "server.changed",
        "server_gone" => "server.deleted",
        "action" => match fields["action"]["status"].as_str()? {
            "success" => "action.success",
            "error" => "action.error",
            _ => "action.running",
        },
        _ => return None,
    };
    Some((kind, change))
}

/// How long until a delivery is tried again that failed so often.
pub fn pause(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
    (PAUSE_FIRST * 2_u32.pow(doublings)).min(PAUSE_MAX)
}

/// How long a webhook rests whose tries failed so often one after the other.
pub fn rest(failures: i32) -> Duration {
    let doublings = u32::try_from(failures).unwrap_or(0).min(16);
    Duration::from_secs(2_u64.pow(doublings)).min(WEBHOOK_PAUSE_MAX)
}

/// The header `Berth-Signature`.
pub fn signature(secret: &[u8], timestamp: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body.as_bytes());
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached() {
        let may = |text: &str| may_reach(text.parse().expect("an address"), &[]);
        for public in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a01:4f8::1", "::ffff:9.9.9.9"] {
            assert!(may(public), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.0.1",
            "198.19.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "100::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2001:0:7f00:1::",
        ] {
            assert!(!may(special), "{special}");
        }
        let allowed = ["127.0.0.0/8".parse().expect("a network")];
        assert!(may_reach([127, 0, 0, 1].into(), &allowed) && !may_reach([10, 0, 0, 1].into(), &allowed));
    }

    #[test]
    fn a_wrong_address_is_named() {
        let names = |url: &str| !faults(None, Some(url), None, &[]).is_empty();
        for good in ["https://example.org", "http://example.org:8080/a?b=c", "https://[2606:4700::1111]/"] {
            assert!(!names(good), "{good}");
        }
        let long = format!("https://example.org/{}", "x".repeat(2048));
        for bad in [
            "",
            "example.org",
            "ftp://example.org",
            "https://",
            "https://user:pass@example.org",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "data:text/plain,x",
            long.as_str(),
        ] {
            assert!(names(bad), "{bad}");
        }
        let kinds = ["server.changed".to_owned(), "snail.ate".to_owned()];
        assert_eq!(faults(Some(" "), None, Some(&kinds), &[]).len(), 2);
    }

    #[test]
    fn a_change_becomes_an_event() {
        let (kind, data) = event(r#"{"kind":"server_gone","id":7}"#).expect("an event");
        assert_eq!((kind, data.to_string().as_str()), ("server.deleted", r#"{"id":7}"#));
        let (kind, data) =
            event(r#"{"kind":"action","action":{"id":1,"status":"error"}}"#).expect("an event");
        assert_eq!((kind, data["action"]["id"].as_i64()), ("action.error", Some(1)));
        assert_eq!(event(r#"{"kind":"weather"}"#), None);
    }

    #[test]
    fn tries_go_on_for_a_day_with_growing_pauses() {
        let pauses: Vec<_> = (1..40).map(pause).collect();
        assert!(pauses.is_sorted() && pauses[0] == PAUSE_FIRST && pauses[38] == PAUSE_MAX);
        let tries = pauses.iter().scan(Duration::ZERO, |sum, pause| {
            *sum += *pause;
            Some(*sum)
        });
        let in_a_day = tries.take_while(|sum| *sum < Duration::from_secs(24 * 3600)).count();
        assert!((20..40).contains(&in_a_day), "{in_a_day}");
        assert!(rest(0) < rest(3) && rest(i32::MAX) == WEBHOOK_PAUSE_MAX);
    }

    #[test]
    fn a_signature_is_hmac_sha256_of_timestamp_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signature(b"key", 1_700_000_000, "{}"), expected);
    }
}
