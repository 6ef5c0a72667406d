//! Money in whole micro-units of a currency. No floats, anywhere.
#![deny(clippy::float_arithmetic)]

use serde::{Deserialize, Serialize, de};

/// An ISO 4217 code: three upper-case letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The euro.
    pub const EUR: Self = Self(*b"EUR");

    /// The three letters.
    pub fn code(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or("???")
    }

    /// How the panel writes it before an amount: `€`, or the code and a space.
    pub fn sign(&self) -> &str {
        match &self.0 {
            b"EUR" => "€",
            b"USD" => "$",
            b"GBP" => "£",
            _ => self.code(),
        }
    }
}

impl core::str::FromStr for Currency {
    type Err = MoneyError;
    fn from_str(s: &str) -> Result<Self, MoneyError> {
        match s.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(MoneyError::Currency),
        }
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// What can be wrong with a text that should be money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not digits with at most six decimals.
    #[error("write an amount as digits with at most six decimals, like 12.60")]
    Amount,
    /// Not three capital letters.
    #[error("write a currency as three capital letters, like EUR")]
    Currency,
    /// More than ±9.2 × 10¹² units, or two currencies in one sum.
    #[error("the amount is out of range or of another currency")]
    Range,
}

/// An amount of a currency, in millionths of its unit (one cent is 10 000), so that hourly
/// prices are exact. On the wire `{"amount": "12.600000", "currency": "EUR"}`; the amount is a
/// decimal string as in the Hetzner Cloud API's prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Millionths of the currency's unit.
    pub micros: i64,
    /// Which currency.
    pub currency: Currency,
}

const MICROS: u64 = 1_000_000;

impl Money {
    /// From millionths of the currency's unit.
    pub const fn micros(micros: i64, currency: Currency) -> Self {
        Self { micros, currency }
    }

    /// Digits with exactly `decimals` (0 to 6) decimals, rounded half away from zero; `-` before a negative amount.
    pub fn decimal(self, decimals: u32) -> String {
        let unit = 10u64.pow(6 - decimals.min(6));
        let rounded = (self.micros.unsigned_abs() + unit / 2) / unit;
        let scale = MICROS / unit;
        let sign = if self.micros < 0 && rounded > 0 { "-" } else { "" };
        match decimals.min(6) {
            0 => format!("{sign}{rounded}"),
            d => format!("{sign}{}.{:0width$}", rounded / scale, rounded % scale, width = d as usize),
        }
    }

    /// Reads digits with an optional sign and at most six decimals.
    ///
    /// # Errors
    /// [`MoneyError::Amount`] for anything else, [`MoneyError::Range`] when it does not fit.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || fraction.len() > 6 {
            return Err(MoneyError::Amount);
        }
        let whole: i64 = whole.parse().map_err(|_| MoneyError::Range)?;
        let fraction: i64 = format!("{fraction:0<6}").parse().map_err(|_| MoneyError::Range)?;
        let micros = whole.checked_mul(MICROS as i64).and_then(|m| m.checked_add(fraction));
        let micros = micros.ok_or(MoneyError::Range)?;
        Ok(Self { micros: if negative { -micros } else { micros }, currency })
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyError::Range`] when the currencies differ or the sum does not fit.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::Range);
        }
        let micros = self.micros.checked_add(other.micros).ok_or(MoneyError::Range)?;
        Ok(Self { micros, ..self })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyWire {
    amount: String,
    currency: Currency,
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        MoneyWire { amount: self.decimal(6), currency: self.currency }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let wire = MoneyWire::deserialize(d)?;
        Self::parse(&wire.amount, wire.currency).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn money_is_written_rounded_half_away_from_zero() {
        let eur = |micros| Money::micros(micros, Currency::EUR);
        assert_eq!(eur(9_250_000).decimal(2), "9.25");
        assert_eq!(eur(5_750).decimal(4), "0.0058");
        assert_eq!(eur(-4_999).decimal(2), "0.00");
        assert_eq!(eur(-5_000).decimal(2), "-0.01");
        assert_eq!(eur(1_500_000).decimal(0), "2");
    }

    #[test]
    fn text_that_is_not_money_is_refused() {
        for text in ["", ".", "1.", ".5", "1,5", "1.2345678", "+1", "--1", "1e3", "٣", "9223372036855"] {
            assert!(Money::parse(text, Currency::EUR).is_err(), "{text:?}");
        }
        assert!("eur".parse::<Currency>().is_err());
    }

    proptest! {
        #[test]
        fn money_survives_the_wire(micros in -9_000_000_000_000_000i64..9_000_000_000_000_000) {
            let money = Money::micros(micros, Currency::EUR);
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }
    }
}
