//! What all lists understand: pages and sorting.

use axum::extract::FromRequestParts;
use berth_model::error::ApiError;
use berth_model::page::{Meta, PER_PAGE_DEFAULT, PER_PAGE_MAX, Pagination};
use http::request::Parts;
use serde::Deserialize;

use super::extract;
use super::problem::Problem;

/// The page that is asked for: `page` from 1, `per_page` 1 to 50, 25 unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Which page, from 1.
    #[param(required = false, minimum = 1, default = 1)]
    page: u32,
    /// Entries on a page.
    #[param(required = false, minimum = 1, maximum = 50, default = 25)]
    per_page: u32,
}

impl Page {
    /// Entries on a page, for `limit`.
    pub fn limit(self) -> i64 {
        i64::from(self.per_page)
    }

    /// Entries before this page, for `offset`.
    pub fn offset(self) -> i64 {
        i64::from(self.page - 1) * i64::from(self.per_page)
    }

    /// What stands beside a list of `total` entries.
    pub fn meta(self, total: i64) -> Meta {
        let total = u64::try_from(total).unwrap_or_default();
        Meta { pagination: Pagination::new(self.page, self.per_page, total) }
    }

    fn from_query(query: Option<&str>) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Asked {
            page: Option<u32>,
            per_page: Option<u32>,
        }
        let asked: Asked = extract::query(query)?;
        let (page, per_page) = (asked.page.unwrap_or(1), asked.per_page.unwrap_or(PER_PAGE_DEFAULT));
        if page == 0 {
            return Err(ApiError::field("page", "Pages are counted from 1."));
        }
        if !(1..=PER_PAGE_MAX).contains(&per_page) {
            return Err(ApiError::field("per_page", format!("A page has 1 to {PER_PAGE_MAX} entries.")));
        }
        Ok(Self { page, per_page })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::from_query(parts.uri.query())?)
    }
}

/// One key of a sorting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort<C> {
    /// By what.
    pub column: C,
    /// From large to small.
    pub descending: bool,
}

impl<C: Copy + PartialEq> Sort<C> {
    /// Reads the values of `sort=name:desc&sort=id`, given the words that may be sorted by.
    ///
    /// # Errors
    /// `invalid_input` naming `sort`.
    pub fn read(asked: &[String], allowed: &[(&str, C)]) -> Result<Vec<Self>, ApiError> {
        let mut keys: Vec<Self> = Vec::new();
        for text in asked {
            let (word, direction) = text.split_once(':').unwrap_or((text, "asc"));
            let column = allowed.iter().find(|(name, _)| *name == word).map(|(_, column)| *column);
            let descending = match direction {
                "asc" => Some(false),
                "desc" => Some(true),
                _ => None,
            };
            let (Some(column), Some(descending)) = (column, descending) else {
                let words: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
                let message = format!("Sort by {}, each with “:asc” or “:desc”.", words.join(", "));
                return Err(ApiError::field("sort", message));
            };
            // A key that was named before decides nothing more.
            if !keys.iter().any(|key| key.column == column) {
                keys.push(Self { column, descending });
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_counted_from_one_and_bounded() {
        let page = Page::from_query(Some("page=3&per_page=10&name=x")).expect("a good page");
        assert_eq!((page.limit(), page.offset()), (10, 20));
        assert_eq!(page.meta(25).pagination.last_page, 3);
        assert_eq!(Page::from_query(None).expect("the default").limit(), 25);
        for (bad, name) in [
            ("page=0", "page"),
            ("page=-1", "page"),
            ("page=x", "page"),
            ("per_page=0", "per_page"),
            ("per_page=51", "per_page"),
            ("per_page=4294967296", "per_page"),
        ] {
            let error = Page::from_query(Some(bad)).expect_err(bad);
            assert!(error.for_field(name).is_some(), "{bad}: {error:?}");
        }
        let far = Page::from_query(Some("page=4294967295&per_page=50")).expect("far, but a page");
        assert_eq!(far.offset(), 214_748_364_700);
    }

    #[test]
    fn only_offered_columns_are_sorted_by() {
        let allowed = [("id", 'i'), ("name", 'n')];
        let asked = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|&t| t.to_owned()).collect();
            Sort::read(&texts, &allowed)
        };
        let keys = asked(&["name:desc", "id", "name:asc"]).expect("good keys");
        assert_eq!(keys, [Sort { column: 'n', descending: true }, Sort { column: 'i', descending: false }]);
        for bad in ["", "nonsense", "id:down", "id:asc:asc", "ID"] {
            assert!(asked(&[bad]).is_err(), "{bad:?}");
        }
    }
}
