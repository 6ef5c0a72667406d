//! All SQL of `isos`.

use berth_model::iso::{Deprecation, Iso, IsoKind};
use berth_model::server::NameOrId;
use berth_model::{IsoId, ProjectId, Timestamp};
use sqlx::PgConnection;

use crate::images::queries::ARCHITECTURE;
use crate::servers::queries::Loaded;

/// How long an ISO can still be chosen after it was said that it should not be.
const GRACE_S: i64 = 90 * 24 * 60 * 60;

struct Row {
    id: IsoId,
    is_public: bool,
    name: String,
    description: String,
    deprecated: Option<Timestamp>,
}

impl From<Row> for Iso {
    fn from(row: Row) -> Self {
        let deprecation = |announced: Timestamp| Deprecation {
            announced,
            unavailable_after: announced.plus_seconds(GRACE_S),
        };
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            kind: if row.is_public { IsoKind::Public } else { IsoKind::Private },
            architecture: Some(ARCHITECTURE.to_owned()),
            deprecated: row.deprecated,
            deprecation: row.deprecated.map(deprecation),
        }
    }
}

/// All ISOs that the project may use, by number; there are few.
///
/// # Errors
/// When the database fails.
pub async fn all(conn: &mut PgConnection, project: ProjectId) -> sqlx::Result<Vec<Iso>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id as "id: IsoId", project_id is null as "is_public!", name, description,
                  deprecated as "deprecated: Timestamp"
           from isos where project_id is null or project_id = $1 order by id"#,
        project.0
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(Iso::from).collect())
}

/// These ISOs.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut PgConnection, ids: &[IsoId]) -> sqlx::Result<Vec<Iso>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select id as "id: IsoId", project_id is null as "is_public!", name, description,
                  deprecated as "deprecated: Timestamp"
           from isos where id = any($1)"#,
        &ids
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(Iso::from).collect())
}

/// The ISO that a customer names, with its file as it is now, among those that the project may use.
///
/// # Errors
/// When the database fails.
pub async fn find(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &NameOrId,
) -> sqlx::Result<Option<Loaded>> {
    sqlx::query_as!(
        Loaded,
        r#"select id as "id: IsoId", sha256 from isos
           where (project_id is null or project_id = $1) and (id = $2 or name = $3) order by id = $2 desc limit 1"#,
        project.0,
        named.id(),
        named.text()
    )
    .fetch_optional(conn)
    .await
}

/// Offers an ISO under its name, in place of the one before. The number stays; drives keep the file that
/// they were given.
///
/// # Errors
/// When the database fails.
pub async fn put_public(
    conn: &mut PgConnection,
    (name, description): (&str, &str),
    (sha256, file_bytes): (&str, i64),
    now: Timestamp,
) -> sqlx::Result<IsoId> {
    sqlx::query_scalar!(
        r#"insert into isos (name, description, sha256, file_bytes, created) values ($1, $2, $3, $4, $5)
           on conflict (name) where project_id is null do update set description = excluded.description,
               sha256 = excluded.sha256, file_bytes = excluded.file_bytes
           returning id as "id: IsoId""#,
        name,
        description,
        sha256,
        file_bytes,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}
