//! Names of servers, which become host names (RFC 1123).

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
}
