//! What forms make of what is typed into them. Pure.

use berth_model::label::{self, Labels};

/// Reads `role=web, env=prod`, in lines or between commas.
///
/// # Errors
/// A sentence about the first label that is wrong.
pub fn labels(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (key, value) = (key.trim(), value.trim());
        if let Some(fault) = label::key_fault(key).or_else(|| label::value_fault(value)) {
            return Err(format!("“{part}”: {fault}"));
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("“{key}” stands there twice."));
        }
    }
    if labels.len() > label::LABELS_MAX {
        return Err(format!("A server has at most {} labels.", label::LABELS_MAX));
    }
    Ok(labels)
}

/// The first of `base-1`, `base-2` … that is not taken. A number at the end of `base` is counted on.
pub fn free_name(base: &str, taken: &[String]) -> String {
    let stem = match base.rsplit_once('-') {
        Some((stem, n)) if !stem.is_empty() && n.parse::<u32>().is_ok() => stem,
        _ => base,
    };
    (1u32..).map(|n| format!("{stem}-{n}")).find(|name| !taken.contains(name)).unwrap_or_default()
}

/// The name a public key brings with it: its comment.
pub fn key_comment(public_key: &str) -> Option<&str> {
    let comment = public_key.trim().splitn(3, char::is_whitespace).nth(2)?.trim();
    (!comment.is_empty()).then_some(comment)
}

/// Where to go after signing in: only a path of this site.
pub fn safe_path(to: Option<String>) -> String {
    to.filter(|to| to.starts_with('/') && !to.starts_with("//") && !to.contains('\\'))
        .unwrap_or_else(|| "/servers".to_owned())
}

/// A text filter over what a row shows: every word must occur somewhere, without case.
pub fn matches(query: &str, parts: &[&str]) -> bool {
    query
        .split_whitespace()
        .map(str::to_lowercase)
        .all(|word| parts.iter().any(|part| part.to_lowercase().contains(&word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_lines_and_commas() {
        let read = labels("role=web, env = prod\nkept").unwrap();
        assert_eq!(read.get("env").map(String::as_str), Some("prod"));
        assert_eq!(read.get("kept").map(String::as_str), Some(""));
        assert!(labels("").unwrap().is_empty());
        assert!(labels("-x=1").unwrap_err().contains("“-x=1”"));
        assert!(labels("a=1,a=2").is_err());
    }

    #[test]
    fn a_free_name_counts_on() {
        let taken = ["web-1", "web-2"].map(str::to_owned);
        assert_eq!(free_name("web-1", &taken), "web-3");
        assert_eq!(free_name("debian", &taken), "debian-1");
        assert_eq!(free_name("-1", &taken), "-1-1");
    }

    #[test]
    fn a_key_is_called_by_its_comment() {
        assert_eq!(key_comment("ssh-ed25519 AAAA mara, laptop\n"), Some("mara, laptop"));
        assert_eq!(key_comment("ssh-ed25519 AAAA"), None);
    }

    #[test]
    fn signing_in_leads_to_this_site_only() {
        assert_eq!(safe_path(Some("/servers/7".into())), "/servers/7");
        for bad in ["//evil.example", "https://evil.example", "/\\evil.example", ""] {
            assert_eq!(safe_path(Some(bad.into())), "/servers", "{bad}");
        }
    }

    #[test]
    fn a_filter_wants_every_word() {
        assert!(matches("WEB 203", &["web-1", "203.0.113.24"]));
        assert!(!matches("web 198", &["web-1", "203.0.113.24"]));
        assert!(matches("  ", &[]));
    }
}
