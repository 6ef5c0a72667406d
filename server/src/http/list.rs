//! What all lists understand: pages, sorting, and what is looked for.

use axum::extract::FromRequestParts;
use berth_model::error::ApiError;
use berth_model::label::Selector;
use berth_model::page::{Meta, PER_PAGE_DEFAULT, PER_PAGE_MAX, Pagination};
use http::request::Parts;
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use super::extract;
use super::problem::Problem;
use crate::labels;

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
    /// The first page, as long as pages may be.
    pub const LARGEST: Self = Self { page: 1, per_page: PER_PAGE_MAX };

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

    /// Adds ` order by … limit … offset …`. Every order ends with the id, so that pages do not overlap;
    /// in the direction of the first key, so that one index serves both.
    pub fn push_to(self, sql: &mut QueryBuilder<Postgres>, sort: &[Sort]) {
        let direction = |key: &Sort| if key.descending { " desc" } else { "" };
        sql.push(" order by ");
        // What comes after the id decides nothing.
        for key in sort.iter().take_while(|key| key.column != "id") {
            sql.push(key.column).push(direction(key)).push(", ");
        }
        let by_id = sort.iter().find(|key| key.column == "id").or(sort.first());
        sql.push("id").push(by_id.map_or("", direction));
        sql.push(" limit ").push_bind(self.limit()).push(" offset ").push_bind(self.offset());
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

/// Which things of a project a list shows, and in which order: `name`, `label_selector` and `sort`.
#[derive(Debug, Clone, Default, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// With this name.
    pub name: Option<String>,
    /// With labels that fit: `env=prod,!old,role in (web,db)`.
    #[param(value_type = Option<String>)]
    pub label_selector: Selector,
    /// `id`, `name` or `created`, each with `:asc` or `:desc`.
    #[param(value_type = Vec<String>, required = false)]
    pub sort: Vec<Sort>,
}

impl Filter {
    /// Whether it shows everything there is.
    pub fn is_everything(&self) -> bool {
        self.name.is_none() && self.label_selector.0.is_empty()
    }

    /// Adds ` and …` for the columns `name` and `labels`.
    pub fn push_to(&self, sql: &mut QueryBuilder<Postgres>) {
        if let Some(name) = &self.name {
            sql.push(" and name = ").push_bind(name.clone());
        }
        labels::push_selector(sql, &self.label_selector);
    }

    /// A page of those rows that `push_from` (` from … where …`) and this filter leave, and how many there are on
    /// all pages.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn page_of<R>(
        &self,
        conn: &mut PgConnection,
        select: &'static str,
        push_from: impl Fn(&mut QueryBuilder<Postgres>),
        page: Page,
    ) -> sqlx::Result<(Vec<R>, i64)>
    where
        R: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let narrowed = |select| {
            let mut sql = QueryBuilder::new(select);
            push_from(&mut sql);
            self.push_to(&mut sql);
            sql
        };
        let total = narrowed("select count(*)").build_query_scalar().fetch_one(&mut *conn).await?;
        let mut sql = narrowed(select);
        page.push_to(&mut sql, &self.sort);
        Ok((sql.build_query_as().fetch_all(conn).await?, total))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Filter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Asked {
            name: Option<String>,
            label_selector: Option<String>,
            #[serde(default)]
            sort: Vec<String>,
        }
        let asked: Asked = extract::query(parts.uri.query())?;
        Ok(Self {
            name: asked.name,
            label_selector: labels::selector(asked.label_selector.as_deref())?,
            sort: Sort::read(&asked.sort, &["id", "name", "created"])?,
        })
    }
}

/// One key of a sorting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// By what: the word in the query string, and the column.
    pub column: &'static str,
    /// From large to small.
    pub descending: bool,
}

impl Sort {
    /// Reads the values of `sort=name:desc&sort=id`, given what may be sorted by.
    ///
    /// # Errors
    /// `invalid_input` naming `sort`.
    pub fn read(asked: &[String], allowed: &[&'static str]) -> Result<Vec<Self>, ApiError> {
        let mut keys: Vec<Self> = Vec::new();
        for text in asked {
            let (word, direction) = text.split_once(':').unwrap_or((text, "asc"));
            let column = allowed.iter().copied().find(|column| *column == word);
            let descending = match direction {
                "asc" => Some(false),
                "desc" => Some(true),
                _ => None,
            };
            let (Some(column), Some(descending)) = (column, descending) else {
                let message = format!("Sort by {}, each with “:asc” or “:desc”.", allowed.join(", "));
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

/// The part of a short list, read whole, that is asked for: by name, `sort` (`id` or `name`) and page. `key`: number
/// and name of an entry.
///
/// # Errors
/// `invalid_input` naming `sort`.
pub fn part_of<T>(
    mut all: Vec<T>,
    (name, sort): (Option<&str>, &[String]),
    page: Page,
    key: impl Fn(&T) -> (i64, &str),
) -> Result<(Vec<T>, Meta), ApiError> {
    let order = Sort::read(sort, &["id", "name"])?;
    if let Some(name) = name {
        all.retain(|entry| key(entry).1 == name);
    }
    for by in order.iter().rev() {
        all.sort_by(|a, b| {
            let ((a_id, a_name), (b_id, b_name)) = (key(a), key(b));
            let ordering = if by.column == "id" { a_id.cmp(&b_id) } else { a_name.cmp(b_name) };
            if by.descending { ordering.reverse() } else { ordering }
        });
    }
    let meta = page.meta(i64::try_from(all.len()).unwrap_or(i64::MAX));
    let skip = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let take = usize::try_from(page.limit()).unwrap_or(usize::MAX);
    Ok((all.into_iter().skip(skip).take(take).collect(), meta))
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
        let asked = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|&t| t.to_owned()).collect();
            Sort::read(&texts, &["id", "name"])
        };
        let keys = asked(&["name:desc", "id", "name:asc"]).expect("good keys");
        let key = |column, descending| Sort { column, descending };
        assert_eq!(keys, [key("name", true), key("id", false)]);
        for bad in ["", "nonsense", "id:down", "id:asc:asc", "ID"] {
            assert!(asked(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_order_ends_with_the_id() {
        let page = Page { page: 1, per_page: 25 };
        for (asked, order) in [
            (&[][..], "id"),
            (&["name"], "name, id"),
            (&["name:desc"], "name desc, id desc"),
            (&["name:desc", "id"], "name desc, id"),
            (&["id:desc", "name"], "id desc"),
        ] {
            let asked: Vec<_> = asked.iter().map(|&text| text.to_owned()).collect();
            let mut sql = QueryBuilder::new("");
            page.push_to(&mut sql, &Sort::read(&asked, &["id", "name"]).expect("good keys"));
            assert_eq!(sql.sql().as_str(), format!(" order by {order} limit $1 offset $2"));
        }
    }
}
