//! What a server type costs where. Whole micro-units; no floats.
#![deny(clippy::float_arithmetic)]

use berth_model::server::Server;
use berth_model::server_type::ServerType;
use berth_model::{Currency, Money};

use crate::format;

/// The currency of the catalogue. Prices of the API carry none; an installation has one.
const CURRENCY: Currency = Currency::EUR;

/// A price per hour begun, and the most it comes to in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// For each hour begun.
    pub hourly: Money,
    /// At most this for a calendar month.
    pub monthly: Money,
    /// Bytes that may be sent each month.
    pub traffic: u64,
}

impl Prices {
    /// What a type costs in a location; `None` where it is not offered.
    pub fn of(kind: &ServerType, location: &str) -> Option<Self> {
        let price = kind.prices.iter().find(|price| price.location == location)?;
        Some(Self {
            hourly: format::price(&price.price_hourly, CURRENCY)?,
            monthly: format::price(&price.price_monthly, CURRENCY)?,
            traffic: price.included_traffic,
        })
    }

    /// What a server costs.
    pub fn of_server(server: &Server) -> Option<Self> {
        Self::of(&server.server_type, &server.location.name)
    }
}
