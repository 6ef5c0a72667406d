//! Names of keys, and what Linux calls them (`input-event-codes.h`).

use berth_model::FieldError;
use berth_model::agent::SendKeys;

/// Keys at once (libvirt's limit).
const KEYS_MAX: usize = 16;
/// Longest that keys are held, in milliseconds.
const HOLD_MAX_MS: u32 = 5000;

/// Key codes: rows of keys that stand beside each other, by the first one's code.
const ROWS: [(u32, &str); 5] =
    [(2, "1234567890"), (16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm"), (12, "-=")];

const NAMED: [(&str, u32); 41] = [
    ("esc", 1),
    ("minus", 12),
    ("equal", 13),
    ("backspace", 14),
    ("tab", 15),
    ("enter", 28),
    ("ctrl", 29),
    ("shift", 42),
    ("comma", 51),
    ("dot", 52),
    ("slash", 53),
    ("alt", 56),
    ("space", 57),
    ("caps_lock", 58),
    ("f1", 59),
    ("f2", 60),
    ("f3", 61),
    ("f4", 62),
    ("f5", 63),
    ("f6", 64),
    ("f7", 65),
    ("f8", 66),
    ("f9", 67),
    ("f10", 68),
    ("f11", 87),
    ("f12", 88),
    ("sysrq", 99),
    ("altgr", 100),
    ("home", 102),
    ("up", 103),
    ("page_up", 104),
    ("left", 105),
    ("right", 106),
    ("end", 107),
    ("down", 108),
    ("page_down", 109),
    ("insert", 110),
    ("delete", 111),
    ("del", 111),
    ("meta", 125),
    ("control", 29),
];

/// The code of a key.
pub fn code(name: &str) -> Option<u32> {
    let of_row = |(first, row): &(u32, &str)| {
        let place = row.find(name).filter(|_| name.len() == 1)?;
        Some(first + u32::try_from(place).ok()?)
    };
    NAMED
        .iter()
        .find(|(named, _)| *named == name)
        .map(|(_, code)| *code)
        .or_else(|| ROWS.iter().find_map(of_row))
}

/// The codes of all keys; those without a name that is known are left out, see [`faults`].
pub fn codes(keys: &SendKeys) -> Vec<u32> {
    keys.keys.iter().filter_map(|name| code(name)).collect()
}

/// What is wrong with a request.
pub fn faults(request: &SendKeys) -> Vec<FieldError> {
    let fault = |name: String, message: &str| FieldError { name, messages: vec![message.to_owned()] };
    let mut faults = Vec::new();
    if !(1..=KEYS_MAX).contains(&request.keys.len()) {
        faults.push(fault("keys".to_owned(), "1 to 16 keys can be pressed together."));
    }
    for (n, name) in request.keys.iter().enumerate() {
        if code(name).is_none() {
            faults.push(fault(format!("keys[{n}]"), "There is no such key; like ctrl, alt, delete, f2, a."));
        }
    }
    if request.hold_ms.is_some_and(|ms| !(1..=HOLD_MAX_MS).contains(&ms)) {
        faults.push(fault("hold_ms".to_owned(), "Keys are held for 1 to 5000 milliseconds."));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_kernels_codes() {
        let _proof = crate::proof::pure(&["vm.send_keys"]);
        let known = [
            ("ctrl", 29),
            ("alt", 56),
            ("delete", 111),
            ("a", 30),
            ("m", 50),
            ("0", 11),
            ("1", 2),
            ("p", 25),
        ];
        for (name, wanted) in known {
            assert_eq!(code(name), Some(wanted), "{name}");
        }
        for not in ["", "A", "ab", "ctrl-alt", "ä", "f13"] {
            assert_eq!(code(not), None, "{not}");
        }
    }

    #[test]
    fn nonsense_is_named_key_by_key() {
        let _proof = crate::proof::pure(&["vm.send_keys"]);
        let of = |keys: &[&str], hold_ms| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            faults(&SendKeys { keys, hold_ms }).into_iter().map(|fault| fault.name).collect::<Vec<_>>()
        };
        assert!(of(&["ctrl", "alt", "delete"], Some(100)).is_empty());
        assert_eq!(of(&[], None), ["keys"]);
        assert_eq!(of(&["ctrl", "any"], Some(0)), ["keys[1]", "hold_ms"]);
        assert_eq!(of(&["a"; 17], None), ["keys"]);
    }
}
