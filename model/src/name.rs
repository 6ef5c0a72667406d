//! Host names (RFC 1123): of servers, and of addresses.

/// Longest name of a server, in bytes: one label of a host name, so that the domain part still fits.
pub const SERVER_NAME_MAX: usize = 63;

/// Says what is wrong with a server's name, or nothing.
///
/// A name is one to 63 letters, digits, dots and hyphens; every part between dots begins and
/// ends with a letter or digit (RFC 1123, section 2.1).
pub fn server_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("Enter a name.");
    }
    if name.len() > SERVER_NAME_MAX {
        return Some("A name has at most 63 characters.");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') {
        return Some("A name has letters, digits, dots and hyphens only.");
    }
    let part_is_good = |part: &str| {
        let ends = [part.bytes().next(), part.bytes().next_back()];
        ends.iter().all(|b| b.is_some_and(|b| b.is_ascii_alphanumeric()))
    };
    if !name.split('.').all(part_is_good) {
        return Some("Each part of a name begins and ends with a letter or a digit.");
    }
    None
}

/// Longest host name, in bytes (RFC 1035, section 2.3.4, without the dot at the end).
pub const HOST_NAME_MAX: usize = 253;
/// Longest part of a host name, in bytes.
pub const HOST_NAME_PART_MAX: usize = 63;

/// Says what is wrong with a host name, or nothing: parts of letters, digits and hyphens, the last of which is no
/// number, so that nobody takes it for an address.
pub fn host_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("Enter a host name.");
    }
    if name.len() > HOST_NAME_MAX {
        return Some("A host name has at most 253 characters.");
    }
    let part_is_good = |part: &str| {
        (1..=HOST_NAME_PART_MAX).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let mut parts = name.split('.');
    if !parts.clone().all(part_is_good) {
        return Some(
            "A host name is parts of 1 to 63 letters, digits and hyphens, between dots; no part begins or ends with a hyphen.",
        );
    }
    parts
        .next_back()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        .then_some("The last part of a host name is not a number.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_accepted_and_others_refused() {
        for good in ["web-1", "a", "1", "mail.example.org", "X9"] {
            assert_eq!(server_name_fault(good), None, "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "a..b", ".a", "a_b", "ä", "a b", "a\n", long.as_str()] {
            assert!(server_name_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_reverse_name_is_a_host_name_and_no_address() {
        let long = format!("{}.example.org", "a".repeat(63));
        for good in ["mail.example.org", "a", "xn--bcher-kva.example", "1.2.3.4.example.org", long.as_str()] {
            assert_eq!(host_name_fault(good), None, "{good}");
        }
        let part = format!("{}.example.org", "a".repeat(64));
        let all = "a.".repeat(127) + "a";
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "a_b.c", "ä.b", "a b", "10.0.0.1", "a\n", &part,
            &all,
        ] {
            assert!(host_name_fault(bad).is_some(), "{bad:?}");
        }
    }
}
