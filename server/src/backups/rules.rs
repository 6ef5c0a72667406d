//! When backups are made: pure, and in UTC.

use berth_model::{ServerId, Timestamp};

/// Length of a window.
const WINDOW_S: i64 = 4 * 3600;
const DAY_S: i64 = 24 * 3600;
/// The first hours of all windows.
const FIRST_HOURS: [i16; 6] = [22, 2, 6, 10, 14, 18];

/// The first hour of the window of a new plan: servers spread over all of them.
pub fn first_hour(server: ServerId) -> i16 {
    FIRST_HOURS[(spread(server) % 6) as usize]
}

/// A window as customers read it: `22-02`.
pub fn window(first_hour: i16) -> String {
    format!("{first_hour:02}-{:02}", (first_hour + 4) % 24)
}

/// The first moment after `now` at which the server is to be backed up. Servers of a window spread over it, and each
/// keeps its moment.
pub fn next_due(server: ServerId, first_hour: i16, now: Timestamp) -> Timestamp {
    let in_window = (spread(server) / 6 % WINDOW_S.unsigned_abs()).cast_signed();
    let of_day = (i64::from(first_hour) * 3600 + in_window) % DAY_S;
    let second = now.0.unix_timestamp();
    let today = second - second.rem_euclid(DAY_S) + of_day;
    let due = if today > second { today } else { today + DAY_S };
    let whole = Timestamp(now.0.replace_nanosecond(0).unwrap_or(now.0));
    whole.plus_seconds(due - second)
}

/// Neighbouring numbers far apart (Knuth's multiplicative hash).
fn spread(server: ServerId) -> u64 {
    server.0.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_are_written_as_clients_know_them() {
        let all = FIRST_HOURS.map(window);
        assert_eq!(all, ["22-02", "02-06", "06-10", "10-14", "14-18", "18-22"]);
        let used: std::collections::BTreeSet<_> = (1..100).map(|n| first_hour(ServerId(n))).collect();
        assert_eq!(used.len(), 6, "servers spread over them");
    }

    proptest! {
        #[test]
        fn a_backup_is_due_once_a_day_in_its_window(
            server in 1i64..1_000_000, hour in 0usize..6, now_ms in 0i64..4_000_000_000_000,
        ) {
            let (server, hour) = (ServerId(server), FIRST_HOURS[hour]);
            let now = Timestamp::from_unix_ms(now_ms).expect("a time");
            let due = next_due(server, hour, now);
            prop_assert!(due > now && due <= now.plus_seconds(DAY_S));
            let since_first = due.0.unix_timestamp() - i64::from(hour) * 3600;
            prop_assert!(since_first.rem_euclid(DAY_S) < WINDOW_S);
            prop_assert_eq!(next_due(server, hour, due), due.plus_seconds(DAY_S));
        }
    }
}
