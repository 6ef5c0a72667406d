//! How the panel writes money, sizes, rates and times. Pure: the clock and the offset of the
//! browser's time zone come in.

use berth_model::server_type::Price;
use berth_model::{Currency, Money, Timestamp};
use time::{Month, OffsetDateTime, UtcOffset};

/// A thin way to say "no value": an en dash.
pub const NONE: &str = "–";

/// Reads a price of the API. It writes ten decimals; money has six, so that zeros beyond are cut
/// and anything else there is refused rather than rounded.
pub fn price(price: &Price, currency: Currency) -> Option<Money> {
    let text = price.net.as_str();
    let kept = match text.split_once('.') {
        Some((whole, fraction)) if fraction.len() > 6 => {
            let (head, tail) = fraction.split_at_checked(6)?;
            tail.bytes().all(|b| b == b'0').then(|| format!("{whole}.{head}"))?
        }
        _ => text.to_owned(),
    };
    Money::parse(&kept, currency).ok()
}

/// `€9.25`; a minus sign, not a hyphen.
pub fn money(money: Money) -> String {
    written(money, 2)
}

/// `€0.0101`: four decimals, only for prices per hour.
pub fn money_per_hour(money: Money) -> String {
    written(money, 4)
}

fn written(money: Money, decimals: u32) -> String {
    let digits = money.decimal(decimals);
    let (minus, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("−", rest),
        None => ("", digits.as_str()),
    };
    let sign = money.currency.sign();
    let space = if sign.chars().all(|c| c.is_ascii_alphabetic()) { " " } else { "" };
    format!("{minus}{sign}{space}{digits}")
}

/// `2 GB`, `0.5 GB`: memory as the API counts it.
pub fn gigabytes(gigabytes: f64) -> String {
    if gigabytes < 1.0 {
        return format!("{:.0} MB", gigabytes * 1024.0);
    }
    format!("{gigabytes} GB")
}

/// `20 TB`, `500 GB`: traffic, counted in 10¹² bytes.
pub fn traffic(bytes: u64) -> String {
    const TB: u64 = 1_000_000_000_000;
    const GB: u64 = 1_000_000_000;
    match bytes {
        0 => "0".to_owned(),
        b if b % TB == 0 => format!("{} TB", b / TB),
        b if b >= TB => format!("{}.{} TB", b / TB, b % TB * 10 / TB),
        b => format!("{} GB", b / GB),
    }
}

/// `23 %`.
pub fn percent(value: f64) -> String {
    format!("{:.0} %", value.clamp(0.0, 999.0))
}

/// The unit a rate is best read in, chosen once for an axis: its factor and its word.
pub fn bit_rate_unit(highest_bits_per_s: f64) -> (f64, &'static str) {
    match highest_bits_per_s {
        b if b >= 1e9 => (1e9, "Gbit/s"),
        b if b >= 1e6 => (1e6, "Mbit/s"),
        _ => (1e3, "kbit/s"),
    }
}

/// A number in reserved space: one decimal below ten, none above.
pub fn number(value: f64) -> String {
    if value > 0.0 && value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// How long something took: `0.4 s`, `19 s`, `1 min 12 s`, `2 h 5 min`.
pub fn took(ms: u64) -> String {
    match ms {
        ms if ms < 9_950 => format!("{}.{} s", (ms + 50) / 1000, (ms + 50) % 1000 / 100),
        ms if ms < 59_500 => format!("{} s", (ms + 500) / 1000),
        ms if ms < 3_600_000 => {
            let seconds = (ms + 500) / 1000;
            match seconds % 60 {
                0 => format!("{} min", seconds / 60),
                rest => format!("{} min {rest} s", seconds / 60),
            }
        }
        ms => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// How long something has taken so far, in whole seconds: what counts on the screen.
pub fn took_whole(ms: u64) -> String {
    if ms < 9_950 { format!("{} s", ms / 1000) } else { took(ms / 1000 * 1000) }
}

/// Where and when the reader is: what times are written against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Now.
    pub now: Timestamp,
    /// Minutes that local time is ahead of UTC.
    pub offset_minutes: i32,
}

impl Here {
    fn local(self, at: Timestamp) -> OffsetDateTime {
        let offset = UtcOffset::from_whole_seconds(self.offset_minutes * 60).unwrap_or(UtcOffset::UTC);
        at.0.to_offset(offset)
    }

    /// `12:03`.
    pub fn clock(self, at: Timestamp) -> String {
        let local = self.local(at);
        format!("{:02}:{:02}", local.hour(), local.minute())
    }

    /// Today `12:03`, otherwise `20 Nov 02:14`, in another year `20 Nov 2025 02:14`.
    pub fn moment(self, at: Timestamp) -> String {
        let (local, today) = (self.local(at), self.local(self.now));
        if local.date() == today.date() {
            return self.clock(at);
        }
        format!("{} {}", self.day(at), self.clock(at))
    }

    /// `20 Nov`, in another year `20 Nov 2025`.
    pub fn day(self, at: Timestamp) -> String {
        let (local, today) = (self.local(at), self.local(self.now));
        let day = format!("{} {}", local.day(), month(local.month()));
        if local.year() == today.year() { day } else { format!("{day} {}", local.year()) }
    }

    /// What an axis over `span_s` seconds says below a point: a time, or a day.
    pub fn tick(self, at: Timestamp, span_s: i64) -> String {
        if span_s > 86_400 { self.day(at) } else { self.clock(at) }
    }
}

fn month(month: Month) -> &'static str {
    match month {
        Month::January => "Jan",
        Month::February => "Feb",
        Month::March => "Mar",
        Month::April => "Apr",
        Month::May => "May",
        Month::June => "Jun",
        Month::July => "Jul",
        Month::August => "Aug",
        Month::September => "Sep",
        Month::October => "Oct",
        Month::November => "Nov",
        Month::December => "Dec",
    }
}

/// `1 server`, `3 servers`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// The first letters of the first and last word, for an avatar.
pub fn initials(name: &str) -> String {
    let mut words = name.split_whitespace().filter_map(|w| w.chars().find(|c| c.is_alphanumeric()));
    let first = words.next();
    let last = words.next_back();
    first.into_iter().chain(last).flat_map(char::to_uppercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eur(micros: i64) -> Money {
        Money::micros(micros, Currency::EUR)
    }

    fn at(text: &str) -> Timestamp {
        serde_json::from_value(serde_json::Value::String(text.to_owned())).unwrap()
    }

    fn priced(net: &str) -> Option<Money> {
        price(&Price { net: net.to_owned(), gross: net.to_owned() }, Currency::EUR)
    }

    #[test]
    fn prices_of_ten_decimals_are_read_exactly() {
        assert_eq!(priced("0.0101000000"), Some(eur(10_100)));
        assert_eq!(priced("12.6000000000"), Some(eur(12_600_000)));
        assert_eq!(priced("3"), Some(eur(3_000_000)));
        assert_eq!(priced("0.0000001"), None, "a seventh decimal is not rounded away");
        assert_eq!(priced("free"), None);
        assert_eq!(priced("1.00000ä"), None);
    }

    #[test]
    fn money_is_written_with_its_sign_and_a_real_minus() {
        assert_eq!(money(eur(9_250_000)), "€9.25");
        assert_eq!(money(eur(-500_000)), "−€0.50");
        assert_eq!(money_per_hour(eur(10_100)), "€0.0101");
        let chf = "CHF".parse().unwrap();
        assert_eq!(money(Money::micros(1_000_000, chf)), "CHF 1.00");
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(gigabytes(2.0), "2 GB");
        assert_eq!(gigabytes(0.25), "256 MB");
        assert_eq!(traffic(20_000_000_000_000), "20 TB");
        assert_eq!(traffic(1_500_000_000_000), "1.5 TB");
        assert_eq!(traffic(500_000_000_000), "500 GB");
        assert_eq!(percent(22.6), "23 %");
        assert_eq!(number(4.24), "4.2");
        assert_eq!(number(212.4), "212");
        assert_eq!(number(0.0), "0");
    }

    #[test]
    fn durations_are_rounded_to_what_a_reader_needs() {
        for (ms, text) in [
            (0, "0.0 s"),
            (420, "0.4 s"),
            (9_949, "9.9 s"),
            (9_950, "10 s"),
            (19_200, "19 s"),
            (59_499, "59 s"),
            (59_500, "1 min"),
            (72_000, "1 min 12 s"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(took(ms), text, "{ms}");
        }
    }

    #[test]
    fn times_name_the_day_only_when_it_is_another() {
        let here = Here { now: at("2026-11-21T12:03:00Z"), offset_minutes: 60 };
        assert_eq!(here.moment(at("2026-11-21T11:03:00Z")), "12:03");
        assert_eq!(here.moment(at("2026-11-20T01:14:00Z")), "20 Nov 02:14");
        assert_eq!(here.moment(at("2026-11-20T23:30:00Z")), "00:30", "local midnight counts");
        assert_eq!(here.day(at("2025-03-03T01:00:00Z")), "3 Mar 2025");
        assert_eq!(here.tick(at("2026-11-20T01:14:00Z"), 86_400), "02:14");
        assert_eq!(here.tick(at("2026-11-20T01:14:00Z"), 604_800), "20 Nov");
    }

    #[test]
    fn initials_are_the_first_and_the_last() {
        assert_eq!(initials("Mara Lindqvist"), "ML");
        assert_eq!(initials("Juan de la Cruz"), "JC");
        assert_eq!(initials("élan"), "É");
        assert_eq!(initials(""), "");
    }
}
