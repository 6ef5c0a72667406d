//! All SQL of users, accounts, memberships, projects, sessions, tokens and failed sign-ins.

use std::time::Duration;

use berth_model::people::{Account, Project, Role, Suspension, Token, TokenAccess, User};
use berth_model::{AccountId, ProjectId, Timestamp, TokenId, UserId};
use sqlx::{PgConnection, PgPool, query, query_as, query_scalar};

use super::rules::{Limit, SIGN_IN_WINDOW};
use super::{Key, ProjectAccess};

/// Sessions and tokens note their last use once in so many seconds, so that reading does not
/// write each time.
const NOTE_USE_SECONDS: i64 = 60;
/// Most projects that are listed for a user.
const PROJECTS_MAX: i64 = 1000;

/// Makes a user.
///
/// # Errors
/// `users_email_key` when the address is taken.
pub async fn user_create(
    conn: &mut PgConnection,
    email: &str,
    name: &str,
    role: Role,
    password_hash: &str,
    now: Timestamp,
) -> sqlx::Result<User> {
    query_as!(
        User,
        r#"insert into users (email, name, role, password_hash, created) values ($1, $2, $3, $4, $5)
           returning id as "id: UserId", email, name, role as "role: Role", created as "created: Timestamp""#,
        email,
        name,
        role as Role,
        password_hash,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// Makes an account of which `owner` is a member, and its first project.
pub async fn account_create(
    conn: &mut PgConnection,
    name: &str,
    project: &str,
    owner: UserId,
    now: Timestamp,
) -> sqlx::Result<Project> {
    let account = query_scalar!(
        r#"insert into accounts (name, created) values ($1, $2) returning id as "id: AccountId""#,
        name,
        now as Timestamp
    )
    .fetch_one(&mut *conn)
    .await?;
    query!(
        "insert into memberships (account_id, user_id) values ($1, $2)",
        account as AccountId,
        owner as UserId
    )
    .execute(&mut *conn)
    .await?;
    let id = query_scalar!(
        r#"insert into projects (account_id, name, created) values ($1, $2, $3) returning id as "id: ProjectId""#,
        account as AccountId,
        project,
        now as Timestamp
    )
    .fetch_one(&mut *conn)
    .await?;
    Ok(Project {
        id,
        name: project.to_owned(),
        account: Account { id: account, name: name.to_owned(), suspended: None },
    })
}

/// The user with this address, compared without case, and the hash of their password.
pub async fn user_by_email(conn: &mut PgConnection, email: &str) -> sqlx::Result<Option<(User, String)>> {
    let row = query!(
        r#"select id as "id: UserId", email, name, role as "role: Role", created as "created: Timestamp",
                  password_hash
           from users where lower(email) = lower($1)"#,
        email
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|r| {
        let user = User { id: r.id, email: r.email, name: r.name, role: r.role, created: r.created };
        (user, r.password_hash)
    }))
}

/// Sets a new password and ends all sessions of the user but `keep`.
pub async fn password_change(
    conn: &mut PgConnection,
    user: UserId,
    password_hash: &str,
    keep: &[u8; 32],
) -> sqlx::Result<()> {
    query!("update users set password_hash = $2 where id = $1", user as UserId, password_hash)
        .execute(&mut *conn)
        .await?;
    query!("delete from sessions where user_id = $1 and secret_hash <> $2", user as UserId, &keep[..])
        .execute(conn)
        .await?;
    Ok(())
}

/// Begins a session; answers when it ends unless it is used.
pub async fn session_create(
    conn: &mut PgConnection,
    secret_hash: &[u8; 32],
    user: UserId,
    lifetime: Duration,
    now: Timestamp,
) -> sqlx::Result<Timestamp> {
    let expires = after(now, lifetime);
    query!(
        "insert into sessions (secret_hash, user_id, created, last_used, expires) values ($1, $2, $3, $3, $4)",
        &secret_hash[..],
        user as UserId,
        now as Timestamp,
        expires as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(expires)
}

/// The user of a session that has not ended, and when it ends. Its use puts the end off by so much.
pub async fn session(
    db: &PgPool,
    secret_hash: &[u8; 32],
    put_off: Option<Duration>,
    now: Timestamp,
) -> sqlx::Result<Option<(User, Timestamp)>> {
    let row = query!(
        r#"select u.id as "id: UserId", u.email, u.name, u.role as "role: Role", u.created as "created: Timestamp",
                  s.last_used as "last_used: Timestamp", s.expires as "expires: Timestamp"
           from sessions s join users u on u.id = s.user_id
           where s.secret_hash = $1 and s.expires > $2"#,
        &secret_hash[..],
        now as Timestamp
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let user = User { id: row.id, email: row.email, name: row.name, role: row.role, created: row.created };
    let Some(lifetime) = put_off.filter(|_| row.last_used <= now.plus_seconds(-NOTE_USE_SECONDS)) else {
        return Ok(Some((user, row.expires)));
    };
    let expires = after(now, lifetime);
    query!(
        "update sessions set last_used = $2, expires = $3 where secret_hash = $1",
        &secret_hash[..],
        now as Timestamp,
        expires as Timestamp
    )
    .execute(db)
    .await?;
    Ok(Some((user, expires)))
}

/// Ends a session.
pub async fn session_end(conn: &mut PgConnection, secret_hash: &[u8; 32]) -> sqlx::Result<()> {
    query!("delete from sessions where secret_hash = $1", &secret_hash[..]).execute(conn).await?;
    Ok(())
}

/// The projects a user can enter, oldest first.
pub async fn projects_of_user(conn: &mut PgConnection, user: UserId) -> sqlx::Result<Vec<Project>> {
    let rows = query!(
        r#"select p.id as "id: ProjectId", p.name, a.id as "account_id: AccountId", a.name as account_name,
                  a.suspended as "suspended: Timestamp", a.suspended_reason
           from memberships m join accounts a on a.id = m.account_id join projects p on p.account_id = a.id
           where m.user_id = $1 order by p.id limit $2"#,
        user as UserId,
        PROJECTS_MAX
    )
    .fetch_all(conn)
    .await?;
    let projects = rows.into_iter().map(|row| {
        let suspended = suspension(row.suspended, row.suspended_reason);
        let account = Account { id: row.account_id, name: row.account_name, suspended };
        Project { id: row.id, name: row.name, account }
    });
    Ok(projects.collect())
}

fn suspension(since: Option<Timestamp>, reason: Option<String>) -> Option<Suspension> {
    since.zip(reason).map(|(since, reason)| Suspension { since, reason })
}

/// A project that may be entered, and why its account may only read, if it is suspended.
#[derive(Debug)]
pub struct Entered {
    /// The project.
    pub project: ProjectId,
    /// Who pays.
    pub account: AccountId,
    /// What its people are told.
    pub suspended: Option<String>,
}

/// The project `named`, or the first, if the user can enter it.
pub async fn project_of_user(
    db: &PgPool,
    user: UserId,
    named: Option<ProjectId>,
) -> sqlx::Result<Option<Entered>> {
    query_as!(
        Entered,
        r#"select p.id as "project: ProjectId", p.account_id as "account: AccountId", a.suspended_reason as suspended
           from memberships m join projects p on p.account_id = m.account_id join accounts a on a.id = p.account_id
           where m.user_id = $1 and ($2::bigint is null or p.id = $2) order by p.id limit 1"#,
        user as UserId,
        named as Option<ProjectId>
    )
    .fetch_optional(db)
    .await
}

/// Makes a token of a project.
pub async fn token_create(
    conn: &mut PgConnection,
    project: ProjectId,
    name: &str,
    access: TokenAccess,
    expires: Option<Timestamp>,
    secret_hash: &[u8; 32],
    now: Timestamp,
) -> sqlx::Result<Token> {
    query_as!(
        Token,
        r#"insert into tokens (project_id, name, access, secret_hash, created, expires)
           values ($1, $2, $3, $4, $5, $6)
           returning id as "id: TokenId", name, access as "access: TokenAccess", created as "created: Timestamp",
                     last_used as "last_used: Timestamp", expires as "expires: Timestamp""#,
        project as ProjectId,
        name,
        access as TokenAccess,
        &secret_hash[..],
        now as Timestamp,
        expires as Option<Timestamp>
    )
    .fetch_one(conn)
    .await
}

/// How many tokens a project has. Locks the project, so that two who count and add take turns; not
/// against those who only refer to it.
pub async fn token_count(conn: &mut PgConnection, project: ProjectId) -> sqlx::Result<i64> {
    query!("select id from projects where id = $1 for no key update", project as ProjectId)
        .fetch_one(&mut *conn)
        .await?;
    query_scalar!(r#"select count(*) as "count!" from tokens where project_id = $1"#, project as ProjectId)
        .fetch_one(conn)
        .await
}

/// The tokens of a project, newest first.
pub async fn tokens(conn: &mut PgConnection, project: ProjectId) -> sqlx::Result<Vec<Token>> {
    query_as!(
        Token,
        r#"select id as "id: TokenId", name, access as "access: TokenAccess", created as "created: Timestamp",
                  last_used as "last_used: Timestamp", expires as "expires: Timestamp"
           from tokens where project_id = $1 order by id desc limit $2"#,
        project as ProjectId,
        super::rules::TOKENS_MAX
    )
    .fetch_all(conn)
    .await
}

/// Deletes a token of a project; false when there is none. Sockets that were opened with it close.
pub async fn token_delete(conn: &mut PgConnection, project: ProjectId, id: TokenId) -> sqlx::Result<bool> {
    let done =
        query!("delete from tokens where id = $1 and project_id = $2", id as TokenId, project as ProjectId);
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// What a token opens.
#[derive(Debug)]
pub struct Opened {
    /// The token.
    pub token: TokenId,
    /// What it may do.
    pub may: TokenAccess,
    /// Where.
    pub entered: Entered,
}

/// What a token opens, by the hash of its characters, unless it has ended. Notes its use, to the minute.
pub async fn token_access(
    db: &PgPool,
    secret_hash: &[u8; 32],
    now: Timestamp,
) -> sqlx::Result<Option<Opened>> {
    let row = query!(
        r#"select t.id as "id: TokenId", t.access as "access: TokenAccess", t.last_used as "last_used: Timestamp",
                  p.id as "project_id: ProjectId", p.account_id as "account_id: AccountId", a.suspended_reason
           from tokens t join projects p on p.id = t.project_id join accounts a on a.id = p.account_id
           where t.secret_hash = $1 and (t.expires is null or t.expires > $2)"#,
        &secret_hash[..],
        now as Timestamp
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let noted_until = now.plus_seconds(-NOTE_USE_SECONDS);
    if row.last_used.is_none_or(|last| last <= noted_until) {
        query!(
            "update tokens set last_used = $2 where id = $1 and (last_used is null or last_used <= $3)",
            row.id as TokenId,
            now as Timestamp,
            noted_until as Timestamp
        )
        .execute(db)
        .await?;
    }
    let entered =
        Entered { project: row.project_id, account: row.account_id, suspended: row.suspended_reason };
    Ok(Some(Opened { token: row.id, may: row.access, entered }))
}

/// What a key opens now, to write in this project; nothing when it opens that no more.
pub async fn writer(
    conn: &mut PgConnection,
    project: ProjectId,
    key: Key,
    now: Timestamp,
) -> sqlx::Result<Option<ProjectAccess>> {
    let (token, session) = match &key {
        Key::Token(id) => (Some(id.0), None),
        Key::Session(hash) => (None, Some(&hash[..])),
    };
    let row = query!(
        r#"select a.id as "account: AccountId", k.user_id as "user: UserId"
           from projects p join accounts a on a.id = p.account_id cross join lateral (
               select null::bigint as user_id from tokens t
               where t.id = $2 and t.project_id = p.id and t.access = 'read_write'
                 and (t.expires is null or t.expires > $4)
               union all
               select s.user_id from sessions s join memberships m on m.user_id = s.user_id
               where s.secret_hash = $3 and m.account_id = a.id and s.expires > $4) k
           where p.id = $1 and a.suspended is null"#,
        project as ProjectId,
        token,
        session,
        now as Timestamp
    );
    let row = row.fetch_optional(conn).await?;
    Ok(row.map(|row| ProjectAccess { project, account: row.account, user: row.user, key }))
}

/// Which accounts staff ask for.
#[derive(Debug, Default)]
pub struct AccountFilter {
    /// Of which the user with this address is a member.
    pub email: Option<String>,
    /// Suspended ones only, or the others only.
    pub suspended: Option<bool>,
}

/// A page of all accounts, by number, and how many there are.
pub async fn accounts(
    conn: &mut PgConnection,
    filter: &AccountFilter,
    limit: i64,
    offset: i64,
) -> sqlx::Result<(Vec<Account>, i64)> {
    let rows = query!(
        r#"select a.id as "id: AccountId", a.name, a.suspended as "suspended: Timestamp", a.suspended_reason,
                  count(*) over () as "total!"
           from accounts a
           where ($1::text is null or exists (select from memberships m join users u on u.id = m.user_id
                                              where m.account_id = a.id and lower(u.email) = lower($1)))
             and ($2::boolean is null or (a.suspended is not null) = $2)
           order by a.id limit $3 offset $4"#,
        filter.email,
        filter.suspended,
        limit,
        offset
    )
    .fetch_all(conn)
    .await?;
    let total = rows.first().map_or(0, |row| row.total);
    let account = |id, name, since, reason| Account { id, name, suspended: suspension(since, reason) };
    let accounts = rows.into_iter().map(|r| account(r.id, r.name, r.suspended, r.suspended_reason));
    Ok((accounts.collect(), total))
}

/// Suspends an account with this reason, or resumes it; `None` when there is none.
pub async fn account_suspend(
    conn: &mut PgConnection,
    id: AccountId,
    reason: Option<&str>,
    now: Timestamp,
) -> sqlx::Result<Option<Account>> {
    let row = query!(
        r#"update accounts set suspended = case when $2::text is null then null else coalesce(suspended, $3) end,
                               suspended_reason = $2
           where id = $1
           returning id as "id: AccountId", name, suspended as "suspended: Timestamp", suspended_reason"#,
        id as AccountId,
        reason,
        now as Timestamp
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|r| Account {
        id: r.id,
        name: r.name,
        suspended: suspension(r.suspended, r.suspended_reason),
    }))
}

/// Notes a try that counts until it is forgiven, unless a limit is reached: then answers how long
/// to wait. Tries on the same subject take turns, so a hundred at once are counted like a hundred
/// in a row. Belongs in a transaction of its own.
pub async fn attempt(
    conn: &mut PgConnection,
    limits: &[Limit],
    now: Timestamp,
) -> sqlx::Result<Result<(), Duration>> {
    // One order for everybody, or two tries could wait for each other.
    let mut subjects: Vec<&str> = limits.iter().map(|limit| limit.subject.as_str()).collect();
    subjects.sort_unstable();
    for subject in &subjects {
        query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", *subject).execute(&mut *conn).await?;
    }
    let mut wait = None;
    for limit in limits {
        let recent = query_scalar!(
            r#"select at as "at: Timestamp" from sign_in_failures where subject = $1 and at > $2
               order by at desc limit $3"#,
            limit.subject,
            now.plus_seconds(-SIGN_IN_WINDOW.as_secs().cast_signed()) as Timestamp,
            i64::from(limit.most)
        )
        .fetch_all(&mut *conn)
        .await?;
        wait = wait.max(limit.wait(&recent, now));
    }
    if let Some(wait) = wait {
        return Ok(Err(wait));
    }
    for subject in subjects {
        query!("insert into sign_in_failures (subject, at) values ($1, $2)", subject, now as Timestamp)
            .execute(&mut *conn)
            .await?;
    }
    Ok(Ok(()))
}

/// A try went well: forgets all that were noted under `fresh`, and one at `tried` under `kept`.
pub async fn forgive(conn: &mut PgConnection, fresh: &str, kept: &str, tried: Timestamp) -> sqlx::Result<()> {
    query!(
        "delete from sign_in_failures where subject = $1 or (subject = $2 and at = $3)",
        fresh,
        kept,
        tried as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes ended sessions and failed sign-ins that count no more, a bounded number at a time.
pub async fn prune(conn: &mut PgConnection, now: Timestamp) -> sqlx::Result<u64> {
    let sessions = query!(
        "delete from sessions where secret_hash in (select secret_hash from sessions where expires <= $1 limit 10000)",
        now as Timestamp
    )
    .execute(&mut *conn)
    .await?;
    let failures = query!(
        "delete from sign_in_failures where ctid in (select ctid from sign_in_failures where at <= $1 limit 10000)",
        now.plus_seconds(-SIGN_IN_WINDOW.as_secs().cast_signed()) as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(sessions.rows_affected() + failures.rows_affected())
}

fn after(now: Timestamp, lifetime: Duration) -> Timestamp {
    now.plus_seconds(lifetime.as_secs().cast_signed())
}
