//! Lists come in pages: `{"servers": […], "meta": {"pagination": {…}}}` (Hetzner Cloud API v1).

use serde::{Deserialize, Serialize};

/// Entries on a page when the caller does not say.
pub const PER_PAGE_DEFAULT: u32 = 25;
/// Most entries on a page.
pub const PER_PAGE_MAX: u32 = 50;

/// Where in a list this page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// This page, from 1.
    pub page: u32,
    /// Entries on a page, 1 to 50.
    pub per_page: u32,
    /// The page before, if any.
    pub previous_page: Option<u32>,
    /// The page after, if any.
    pub next_page: Option<u32>,
    /// The last page, at least 1.
    pub last_page: u32,
    /// Entries in the whole list.
    pub total_entries: u64,
}

impl Pagination {
    /// The place of `page` in a list of `total_entries`.
    pub fn new(page: u32, per_page: u32, total_entries: u64) -> Self {
        let last_page =
            total_entries.div_ceil(u64::from(per_page.max(1))).clamp(1, u64::from(u32::MAX)) as u32;
        Self {
            page,
            per_page,
            previous_page: (page > 1).then(|| (page - 1).min(last_page)),
            next_page: (page < last_page).then(|| page + 1),
            last_page,
            total_entries,
        }
    }
}

/// What stands beside a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Meta {
    /// The page.
    pub pagination: Pagination,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_its_neighbours() {
        let middle = Pagination::new(2, 25, 60);
        assert_eq!((middle.previous_page, middle.next_page, middle.last_page), (Some(1), Some(3), 3));
        let empty = Pagination::new(1, 25, 0);
        assert_eq!((empty.previous_page, empty.next_page, empty.last_page), (None, None, 1));
        let beyond = Pagination::new(9, 25, 60);
        assert_eq!((beyond.previous_page, beyond.next_page), (Some(3), None));
    }
}
