//! Sign-up, sign-in, sign-out, password change, and the tokens of a project.

use axum::Json;
use axum::extract::State;
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};
use berth_model::error::{ApiError, ErrorDetails};
use berth_model::people::{
    AccountList, AccountReply, PASSWORD_MAX_BYTES, PasswordChange, Role, Session, SignIn, SignUp,
    SuspendRequest, TokenCreate, TokenCreated, TokenList, User,
};
use berth_model::{AccountId, ErrorCode, FieldError, Timestamp, TokenId, UserId};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use sqlx::{Acquire as _, PgConnection};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{COOKIE, secret_hash};
use super::rules::{
    self, Limit, TOKEN_CHARS, TOKENS_MAX, check, email_fault, name_fault, password_fault, reason_fault,
};
use super::{Reader, SignedIn, Staff, Writer, queries};
use crate::http::{ApiResult, Body, ClientAddress, Errors, Page, Path, Problem, Query, Site, Who, note_who};
use crate::{World, clock, entropy};

/// The routes of this subject, below `/v1`.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(user_create))
        .routes(routes!(session_get, session_create, session_delete))
        .routes(routes!(session_password_change))
        .routes(routes!(token_list, token_create))
        .routes(routes!(token_delete))
        .routes(routes!(account_list))
        .routes(routes!(account_suspend))
        .routes(routes!(account_resume))
}

/// Sign up. Makes the user, an account and a project `default`, and signs in.
#[utoipa::path(post, path = "/users", tag = "accounts", request_body = SignUp,
    responses((status = 201, body = Session), Errors), security(()))]
async fn user_create(
    State(world): State<World>,
    address: ClientAddress,
    headers: HeaderMap,
    jar: CookieJar,
    Body(form): Body<SignUp>,
) -> ApiResult<(StatusCode, CookieJar, Json<Session>)> {
    refuse_foreign_pages(&headers, &world)?;
    let (email, name) = (form.email.trim(), form.name.trim());
    check(&[
        ("email", email_fault(email)),
        ("name", name_fault(name)),
        ("password", password_fault(&form.password, email)),
    ])?;
    let now = clock::now();
    attempt(&world, &[Limit::of_sign_ups(address.household())], now).await?;
    let password_hash = world.passwords.hash(form.password.clone()).await?;

    let mut tx = world.db.begin().await?;
    let user = queries::user_create(&mut tx, email, name, Role::Customer, &password_hash, now)
        .await
        .map_err(|error| Problem::from(error).on_constraint("users_email_key", email_is_taken))?;
    queries::account_create(&mut tx, name, "default", user.id, now).await?;
    let (jar, session) = begin_session(&mut tx, &world, user, jar, now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, jar, Json(session)))
}

fn email_is_taken() -> ApiError {
    let message = "There is a user with this mail address already. Sign in instead.";
    let fields = vec![FieldError { name: "email".into(), messages: vec![message.into()] }];
    ApiError {
        code: ErrorCode::UniquenessError,
        message: message.into(),
        details: Some(ErrorDetails { fields }),
    }
}

/// Who is signed in, and the projects they can enter.
#[utoipa::path(get, path = "/session", tag = "accounts", responses((status = 200, body = Session), Errors))]
async fn session_get(
    State(world): State<World>,
    SignedIn(user, session): SignedIn,
    jar: CookieJar,
) -> ApiResult<(CookieJar, Json<Session>)> {
    let mut conn = world.db.acquire().await?;
    let projects = queries::projects_of_user(&mut conn, user.id).await?;
    // The browser's copy of the cookie lives on with the session.
    let secret = jar.get(COOKIE).map(|cookie| cookie.value().to_owned());
    let jar = match secret {
        Some(secret) => jar.add(cookie(secret, &world)),
        None => jar,
    };
    Ok((jar, Json(Session { user, projects, expires: session.expires })))
}

/// Sign in. The answer sets the session's cookie.
#[utoipa::path(post, path = "/session", tag = "accounts", request_body = SignIn,
    responses((status = 201, body = Session), Errors), security(()))]
async fn session_create(
    State(world): State<World>,
    address: ClientAddress,
    headers: HeaderMap,
    jar: CookieJar,
    Body(form): Body<SignIn>,
) -> ApiResult<(StatusCode, CookieJar, Json<Session>)> {
    refuse_foreign_pages(&headers, &world)?;
    let email = form.email.trim();
    check(&[
        ("email", email_fault(email)),
        ("password", form.password.is_empty().then_some("Enter your password.")),
        (
            "password",
            (form.password.len() > PASSWORD_MAX_BYTES).then_some("A password has at most 1024 bytes."),
        ),
    ])?;
    let now = clock::now();
    let limits = [Limit::of_email(email), Limit::of_address(address.household())];
    attempt(&world, &limits, now).await?;
    let user = verified(&world, email, form.password.clone()).await?;
    let user = user
        .ok_or_else(|| Problem::new(ErrorCode::Unauthorized, "The mail address or the password is wrong."))?;

    let mut tx = world.db.begin().await?;
    let [email, address] = limits;
    queries::forgive(&mut tx, &email.subject, &address.subject, now).await?;
    let (jar, session) = begin_session(&mut tx, &world, user, jar, now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, jar, Json(session)))
}

/// Sign out.
#[utoipa::path(delete, path = "/session", tag = "accounts", responses((status = 204), Errors))]
async fn session_delete(
    State(world): State<World>,
    SignedIn(_, session): SignedIn,
    jar: CookieJar,
) -> ApiResult<(StatusCode, CookieJar)> {
    let mut conn = world.db.acquire().await?;
    queries::session_end(&mut conn, &session.secret_hash).await?;
    let mut gone = cookie(String::new(), &world);
    gone.set_max_age(time::Duration::ZERO);
    Ok((StatusCode::NO_CONTENT, jar.add(gone)))
}

/// A new password. Ends all other sessions of the user.
#[utoipa::path(post, path = "/session/password", tag = "accounts", request_body = PasswordChange,
    responses((status = 204), Errors))]
async fn session_password_change(
    State(world): State<World>,
    SignedIn(user, session): SignedIn,
    address: ClientAddress,
    Body(form): Body<PasswordChange>,
) -> ApiResult<StatusCode> {
    let current = form.current_password.as_str();
    check(&[
        ("current_password", current.is_empty().then_some("Enter the password you have now.")),
        (
            "current_password",
            (current.len() > PASSWORD_MAX_BYTES).then_some("A password has at most 1024 bytes."),
        ),
        ("new_password", password_fault(&form.new_password, &user.email)),
    ])?;
    let now = clock::now();
    // Whoever found an open browser must not guess faster here than at the sign-in.
    let limits = [Limit::of_email(&user.email), Limit::of_address(address.household())];
    attempt(&world, &limits, now).await?;
    if verified(&world, &user.email, form.current_password.clone()).await?.is_none() {
        return Err(Problem::field("current_password", "This is not your password."));
    }
    let password_hash = world.passwords.hash(form.new_password.clone()).await?;

    let mut tx = world.db.begin().await?;
    let [email, address] = limits;
    queries::forgive(&mut tx, &email.subject, &address.subject, now).await?;
    queries::password_change(&mut tx, user.id, &password_hash, &session.secret_hash).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The project's tokens, newest first.
#[utoipa::path(get, path = "/tokens", tag = "accounts", responses((status = 200, body = TokenList), Errors))]
async fn token_list(
    State(world): State<World>,
    _: SignedIn,
    Reader(access): Reader,
) -> ApiResult<Json<TokenList>> {
    let mut conn = world.db.acquire().await?;
    Ok(Json(TokenList { tokens: queries::tokens(&mut conn, access.project).await? }))
}

/// Make a token. Its characters are in the answer, and nowhere after it.
#[utoipa::path(post, path = "/tokens", tag = "accounts", request_body = TokenCreate,
    responses((status = 201, body = TokenCreated), Errors))]
async fn token_create(
    State(world): State<World>,
    _: SignedIn,
    Writer(access): Writer,
    Body(form): Body<TokenCreate>,
) -> ApiResult<(StatusCode, Json<TokenCreated>)> {
    let (name, now) = (form.name.trim(), clock::now());
    let is_past = form.expires.is_some_and(|expires| expires <= now);
    check(&[
        ("name", name_fault(name)),
        ("expires", is_past.then_some("Name a time in the future, or leave it out.")),
    ])?;
    let secret = entropy::alphanumeric(TOKEN_CHARS);

    let mut tx = world.db.begin().await?;
    if queries::token_count(&mut tx, access.project).await? >= TOKENS_MAX {
        let message = format!("A project has at most {TOKENS_MAX} tokens. Delete one that is not used.");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, message));
    }
    let token = queries::token_create(
        &mut tx,
        access.project,
        name,
        form.access,
        form.expires,
        &secret_hash(&secret),
        now,
    )
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(TokenCreated { token, secret })))
}

/// Delete a token. From then on it opens nothing.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "accounts", params(("id" = TokenId, Path)),
    responses((status = 204), Errors))]
async fn token_delete(
    State(world): State<World>,
    _: SignedIn,
    Writer(access): Writer,
    Path(id): Path<TokenId>,
) -> ApiResult<StatusCode> {
    let mut conn = world.db.acquire().await?;
    let was_there = queries::token_delete(&mut conn, access.project, id).await?;
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("token")) }
}

/// Which accounts are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct AskedAccounts {
    /// Of which the user with this mail address is a member.
    email: Option<String>,
    /// Suspended ones only, or the others only.
    suspended: Option<bool>,
}

/// All accounts, by number. For staff.
#[utoipa::path(get, path = "/staff/accounts", tag = "staff", params(AskedAccounts, Page),
    responses((status = 200, body = AccountList), Errors))]
async fn account_list(
    State(world): State<World>,
    _: Staff,
    Query(asked): Query<AskedAccounts>,
    page: Page,
) -> ApiResult<Json<AccountList>> {
    let filter = queries::AccountFilter { email: asked.email, suspended: asked.suspended };
    let mut conn = world.db.acquire().await?;
    let (accounts, total) = queries::accounts(&mut conn, &filter, page.limit(), page.offset()).await?;
    Ok(Json(AccountList { accounts, meta: page.meta(total) }))
}

/// Suspend an account: its people and tokens may only read until it is resumed. Its servers run on. For staff.
#[utoipa::path(post, path = "/staff/accounts/{id}/suspend", tag = "staff", params(("id" = AccountId, Path)),
    request_body = SuspendRequest, responses((status = 200, body = AccountReply), Errors))]
async fn account_suspend(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<AccountId>,
    Body(form): Body<SuspendRequest>,
) -> ApiResult<Json<AccountReply>> {
    let reason = form.reason.trim();
    check(&[("reason", reason_fault(reason))])?;
    set_suspended(&world, id, Some(reason)).await
}

/// Let a suspended account write again. For staff.
#[utoipa::path(post, path = "/staff/accounts/{id}/resume", tag = "staff", params(("id" = AccountId, Path)),
    responses((status = 200, body = AccountReply), Errors))]
async fn account_resume(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<AccountId>,
) -> ApiResult<Json<AccountReply>> {
    set_suspended(&world, id, None).await
}

async fn set_suspended(world: &World, id: AccountId, reason: Option<&str>) -> ApiResult<Json<AccountReply>> {
    let mut conn = world.db.acquire().await?;
    let account = queries::account_suspend(&mut conn, id, reason, clock::now()).await?;
    Ok(Json(AccountReply { account: account.ok_or_else(|| Problem::not_found("account"))? }))
}

/// Signing in from a page of another site would slip somebody else's session under a visitor.
fn refuse_foreign_pages(headers: &HeaderMap, world: &World) -> ApiResult<()> {
    match Site::of(headers, &world.config.origin()) {
        Site::Own | Site::Unknown => Ok(()),
        Site::Foreign => {
            Err(Problem::new(ErrorCode::Forbidden, "This request comes from a page of another site."))
        }
    }
}

/// Counts a try against the limits before it is made, so that many at once count too.
async fn attempt(world: &World, limits: &[Limit], now: Timestamp) -> ApiResult<()> {
    let mut tx = world.db.begin().await?;
    let counted = queries::attempt(&mut tx, limits, now).await?;
    tx.commit().await?;
    counted.map_err(rules::too_many)
}

/// The user with this address, if the password is theirs.
async fn verified(world: &World, email: &str, password: String) -> ApiResult<Option<User>> {
    let found = queries::user_by_email(world.db.acquire().await?.acquire().await?, email).await?;
    let (user, known) = found.unzip();
    let fits = world.passwords.verify(password, known).await?;
    Ok(user.filter(|_| fits))
}

/// A new session in place of the one the browser had, if any.
async fn begin_session(
    conn: &mut PgConnection,
    world: &World,
    user: User,
    jar: CookieJar,
    now: Timestamp,
) -> ApiResult<(CookieJar, Session)> {
    if let Some(old) = jar.get(COOKIE) {
        queries::session_end(conn, &secret_hash(old.value())).await?;
    }
    let secret = hex::encode(entropy::bytes::<32>());
    let lifetime = world.config.session_lifetime();
    let expires = queries::session_create(conn, &secret_hash(&secret), user.id, lifetime, now).await?;
    let projects = queries::projects_of_user(conn, user.id).await?;
    note_user(user.id);
    Ok((jar.add(cookie(secret, world)), Session { user, projects, expires }))
}

fn note_user(user: UserId) {
    note_who(Who { user: Some(user), ..Who::default() });
}

fn cookie(secret: String, world: &World) -> Cookie<'static> {
    Cookie::build((COOKIE, secret))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(world.config.origin().is_secure())
        .max_age(time::Duration::seconds(world.config.session_lifetime_seconds.into()))
        .build()
}
