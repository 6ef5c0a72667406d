//! Labels and label selectors, with the syntax rules of Kubernetes labels, as the Hetzner
//! Cloud API v1 uses them.

use std::collections::BTreeMap;

/// `{"key": "value"}`; at most [`LABELS_MAX`] of them.
pub type Labels = BTreeMap<String, String>;

/// Most labels on one resource.
pub const LABELS_MAX: usize = 64;
/// Longest selector, in bytes.
pub const SELECTOR_MAX: usize = 2048;

fn word_is_good(word: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    word.len() <= 63
        && edge(word.bytes().next())
        && edge(word.bytes().next_back())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Says what is wrong with a label's key, or nothing. A key is a word of at most 63
/// characters, optionally after a DNS name and a slash (`example.com/role`).
pub fn key_fault(key: &str) -> Option<&'static str> {
    let word = match key.split_once('/') {
        Some((prefix, word)) => {
            let labels_good = prefix.split('.').all(|part| !part.contains('_') && word_is_good(part));
            if prefix.is_empty() || prefix.len() > 253 || !labels_good {
                return Some("The part before the slash of a label's key is a DNS name.");
            }
            word
        }
        None => key,
    };
    (!word_is_good(word)).then_some(
        "A label's key has 1 to 63 letters, digits, hyphens, underscores and dots, and begins and ends with a letter or digit.",
    )
}

/// Says what is wrong with a label's value, or nothing. Empty is allowed.
pub fn value_fault(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !word_is_good(value)).then_some(
        "A label's value has at most 63 letters, digits, hyphens, underscores and dots, and begins and ends with a letter or digit.",
    )
}

/// One condition of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `key`
    Exists(String),
    /// `!key`
    Missing(String),
    /// `key=v`, `key==v`, `key in (a,b)`
    In(String, Vec<String>),
    /// `key!=v`, `key notin (a,b)`; true where the key is missing, as in Kubernetes
    NotIn(String, Vec<String>),
}

/// All conditions of a selector must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(pub Vec<Condition>);

impl Selector {
    /// Reads `key,!key,key=v,key!=v,key in (a,b),key notin (a,b)`.
    ///
    /// # Errors
    /// A sentence that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SELECTOR_MAX {
            return Err(format!("A label selector has at most {SELECTOR_MAX} characters."));
        }
        let mut conditions = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() && text.trim().is_empty() {
                continue;
            }
            conditions.push(condition(part).ok_or_else(|| format!("“{part}” is not a label condition."))?);
        }
        Ok(Self(conditions))
    }

    /// Does a resource with these labels fit?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Exists(key) => labels.contains_key(key),
            Condition::Missing(key) => !labels.contains_key(key),
            Condition::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Condition::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn condition(part: &str) -> Option<Condition> {
    let key = |k: &str| key_fault(k.trim()).is_none().then(|| k.trim().to_owned());
    let value = |v: &str| value_fault(v.trim()).is_none().then(|| v.trim().to_owned());
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values = list.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let (k, verb) = head.trim_end().rsplit_once(char::is_whitespace)?;
        return match verb {
            "in" => Some(Condition::In(key(k)?, values)),
            "notin" => Some(Condition::NotIn(key(k)?, values)),
            _ => None,
        };
    }
    if let Some((k, v)) = part.split_once("!=") {
        return Some(Condition::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Condition::In(key(k)?, vec![value(v)?]));
    }
    match part.strip_prefix('!') {
        Some(k) => Some(Condition::Missing(key(k)?)),
        None => Some(Condition::Exists(key(part)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selectors_pick_what_kubernetes_would() {
        let web = labels(&[("role", "web"), ("env", "prod")]);
        for (text, fits) in [
            ("", true),
            ("role", true),
            ("!role", false),
            ("!missing", true),
            ("role=web", true),
            ("role==web,env!=dev", true),
            ("role!=web", false),
            ("missing!=x", true),
            ("env in (dev, prod)", true),
            ("env notin (dev,prod)", false),
            ("role=db", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&web), fits, "{text}");
        }
    }

    #[test]
    fn selectors_that_make_no_sense_are_refused() {
        for text in ["=v", "a b", "a in b", "a within (b)", "-x", "a,", ",", "a=(b"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_may_have_a_dns_prefix() {
        assert_eq!(key_fault("example.com/role"), None);
        assert!(key_fault("/role").is_some());
        assert!(key_fault("exa_mple.com/role").is_some());
        assert!(value_fault("").is_none());
    }
}
