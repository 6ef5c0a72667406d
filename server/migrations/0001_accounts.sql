-- Users, accounts, projects, sessions, tokens. Owner: server/src/accounts.

create table users (
    id            bigint generated always as identity primary key,
    email         text not null check (length(email) between 3 and 254),
    name          text not null check (length(name) between 1 and 100),
    role          text not null check (role in ('owner', 'staff', 'customer')),
    password_hash text not null, -- argon2id, PHC string
    created       timestamptz not null
);
create unique index users_email_key on users (lower(email));

create table accounts (
    id      bigint generated always as identity primary key,
    name    text not null check (length(name) between 1 and 100),
    created timestamptz not null
);

create table memberships (
    account_id bigint not null references accounts,
    user_id    bigint not null references users,
    primary key (account_id, user_id)
);
create index memberships_user on memberships (user_id);

create table projects (
    id         bigint generated always as identity primary key,
    account_id bigint not null references accounts,
    name       text not null check (length(name) between 1 and 100),
    created    timestamptz not null,
    constraint projects_name_key unique (account_id, name)
);

create table sessions (
    secret_hash bytea primary key check (length(secret_hash) = 32), -- SHA-256 of the cookie
    user_id     bigint not null references users,
    created     timestamptz not null,
    last_used   timestamptz not null,
    expires     timestamptz not null
);
create index sessions_user on sessions (user_id);
create index sessions_expires on sessions (expires);

create table tokens (
    id          bigint generated always as identity primary key,
    project_id  bigint not null references projects,
    name        text not null check (length(name) between 1 and 100),
    access      text not null check (access in ('read', 'read_write')),
    secret_hash bytea not null check (length(secret_hash) = 32), -- SHA-256 of the 64 characters
    created     timestamptz not null,
    last_used   timestamptz,
    constraint tokens_secret_key unique (secret_hash)
);
create index tokens_project on tokens (project_id, id);

-- Failed sign-ins, per address and per user; `subject` is 'ip:…' or 'email:…'.
create table sign_in_failures (
    subject text not null,
    at      timestamptz not null
);
create index sign_in_failures_subject on sign_in_failures (subject, at);

-- The answer to a POST with an Idempotency-Key, kept for 24 hours. Owner: server/src/http.
create table idempotency_keys (
    project_id   bigint not null references projects,
    key          text not null check (length(key) between 1 and 255),
    request_hash bytea not null check (length(request_hash) = 32), -- SHA-256 of method, path and body
    status       smallint,  -- null while the first request is under way
    response     bytea,
    created      timestamptz not null,
    primary key (project_id, key)
);
create index idempotency_keys_created on idempotency_keys (created);
