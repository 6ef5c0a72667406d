-- What surrounds every route: expiring tokens, suspended accounts, shared rate limits, quotas, webhooks.

-- Owner: server/src/accounts.
alter table tokens add column expires timestamptz check (expires > created);

alter table accounts
    -- Since when its people and tokens may only read, and the reason that they are told.
    add column suspended        timestamptz,
    add column suspended_reason text check (length(suspended_reason) between 1 and 500),
    add constraint accounts_suspended_check check ((suspended is null) = (suspended_reason is null));

-- The requests that each caller has left, shared by all control planes. Lost in a crash, which only gives
-- everybody a full bucket. Owner: server/src/http.
create unlogged table rate_buckets (
    caller    bytea primary key check (length(caller) = 32), -- SHA-256 of the token, session or address
    remaining double precision not null, -- at that time; below zero when control planes let too many through
    at        timestamptz not null
);
create index rate_buckets_at on rate_buckets (at);

-- How much of each kind a project has. Kept by the triggers below; nobody else writes it.
-- Owner: server/src/quotas.
create table usage (
    project_id bigint not null references projects,
    kind       text not null, -- model::quota::QuotaKind
    used       bigint not null check (used >= 0),
    primary key (project_id, kind)
);

-- Limits that are not the installation's: of an account as a whole, or of one project.
create table quota_limits (
    account_id bigint references accounts,
    project_id bigint references projects,
    kind       text not null,
    most       bigint not null check (most >= 0),
    check (num_nonnulls(account_id, project_id) = 1),
    constraint quota_limits_account_key unique (account_id, kind),
    constraint quota_limits_project_key unique (project_id, kind)
);

create table limit_requests (
    id         bigint generated always as identity primary key,
    project_id bigint not null references projects,
    kind       text not null,
    asked      bigint not null check (asked > 0),
    reason     text not null check (length(reason) between 1 and 1000),
    status     text not null check (status in ('open', 'granted', 'declined')),
    note       text check (length(note) <= 1000), -- what staff answered
    created    timestamptz not null,
    answered   timestamptz,
    check ((status = 'open') = (answered is null))
);
create unique index limit_requests_open_key on limit_requests (project_id, kind) where status = 'open';
create index limit_requests_project on limit_requests (project_id, id);
create index limit_requests_status on limit_requests (status, id);

-- The trigger of statements that add or remove rows. Its arguments are pairs: a kind, and what a row of the
-- table counts for it, as SQL over its columns.
create function count_usage() returns trigger language plpgsql as $$
begin
    for at in 0 .. tg_nargs - 1 by 2 loop
        execute format(
            case tg_op when 'INSERT' then
                'insert into usage as u (project_id, kind, used)
                 select project_id, %1$L, sum(%2$s) from changed where project_id is not null
                 group by project_id order by project_id
                 on conflict (project_id, kind) do update set used = u.used + excluded.used'
            else
                'update usage as u set used = u.used - gone.used
                 from (select project_id, sum(%2$s) as used from changed group by project_id) as gone
                 where u.project_id = gone.project_id and u.kind = %1$L'
            end, tg_argv[at], tg_argv[at + 1]);
    end loop;
    return null;
end $$;

-- The trigger of rows that change; the same arguments. A row never changes its project.
create function recount_usage() returns trigger language plpgsql as $$
declare
    difference bigint;
begin
    for at in 0 .. tg_nargs - 1 by 2 loop
        execute format('select (select %1$s from (select $1.*) as row) - (select %1$s from (select $2.*) as row)',
                       tg_argv[at + 1]) into difference using new, old;
        if difference <> 0 then
            update usage set used = used + difference where project_id = new.project_id and kind = tg_argv[at];
        end if;
    end loop;
    return null;
end $$;

-- Counts a table from now on, and what is in it already: `select count_usage_of('volumes', 'volumes', '1',
-- 'volume_gib', 'size_gib')`. The table has a column `project_id`; rows without a project do not count.
create function count_usage_of(counted regclass, variadic pairs text[]) returns void language plpgsql as $$
declare
    arguments text := (select string_agg(quote_literal(word), ', ' order by place)
                       from unnest(pairs) with ordinality as given (word, place));
begin
    for at in 1 .. array_length(pairs, 1) by 2 loop
        execute format('insert into usage (project_id, kind, used)
                        select project_id, %1$L, sum(%2$s) from %3$s where project_id is not null group by project_id',
                       pairs[at], pairs[at + 1], counted);
    end loop;
    execute format('create trigger usage_counted_in after insert on %s referencing new table as changed
                    for each statement execute function count_usage(%s)', counted, arguments);
    execute format('create trigger usage_counted_out after delete on %s referencing old table as changed
                    for each statement execute function count_usage(%s)', counted, arguments);
end $$;

-- Counts rows anew when they change in a way that counts: `when`, SQL over `old` and `new`.
create function recount_usage_of(counted regclass, "when" text, variadic pairs text[]) returns void
language plpgsql as $$
declare
    arguments text := (select string_agg(quote_literal(word), ', ' order by place)
                       from unnest(pairs) with ordinality as given (word, place));
begin
    execute format('create trigger usage_recounted after update on %s for each row when (%s)
                    execute function recount_usage(%s)', counted, "when", arguments);
end $$;

drop trigger servers_counted_in on servers;
drop trigger servers_counted_out on servers;
drop function count_servers;
drop table server_counts;
select count_usage_of('servers', 'servers', '1', 'cores', 'cores', 'memory_mib', 'memory_mib');
select recount_usage_of('servers', 'old.cores <> new.cores or old.memory_mib <> new.memory_mib',
                        'cores', 'cores', 'memory_mib', 'memory_mib');
select count_usage_of('ssh_keys', 'ssh_keys', '1');
select count_usage_of('images', 'snapshots', '(kind = ''snapshot'' and deleted is null)::int');
select recount_usage_of('images', 'old.deleted is distinct from new.deleted and new.project_id is not null',
                        'snapshots', '(kind = ''snapshot'' and deleted is null)::int');

-- Where customers are told of events. Owner: server/src/webhooks.
create table webhooks (
    id            bigint generated always as identity primary key,
    project_id    bigint not null references projects,
    name          text not null check (length(name) between 1 and 64),
    url           text not null check (length(url) between 1 and 2048),
    kinds         text[] not null, -- of events; empty: all
    secret_sealed bytea not null,  -- sealed with the installation's secret key
    enabled       boolean not null default true,
    note          text,            -- why it was disabled
    since         bigint not null, -- events after this `seq` are told
    failing_since timestamptz,     -- the first failure since the last success
    failures      integer not null default 0, -- in a row
    -- When it is to be sent to; null: nothing waits. A sender moves it to the end of its lease, so a dead
    -- sender's webhook falls due by itself.
    next_due      timestamptz,
    created       timestamptz not null,
    constraint webhooks_name_key unique (project_id, name)
);
select count_usage_of('webhooks', 'webhooks', '1');

create table webhook_deliveries (
    id           bigint generated always as identity primary key,
    webhook_id   bigint not null references webhooks on delete cascade,
    event        bigint not null, -- the event's `seq`: its number for life, the same for every webhook
    kind         text not null,
    body         text not null,   -- JSON, sent as it stands here
    status       text not null check (status in ('pending', 'delivered', 'failed')),
    attempts     integer not null default 0,
    next_attempt timestamptz not null,
    give_up      timestamptz not null,
    http_status  smallint,        -- of the last answer
    error        text,            -- of the last attempt that failed
    created      timestamptz not null,
    finished     timestamptz,
    check ((status = 'pending') = (finished is null))
);
create index webhooks_due on webhooks (next_due) where enabled;
create index webhook_deliveries_pending on webhook_deliveries (webhook_id, next_attempt, id) where status = 'pending';
create index webhook_deliveries_of on webhook_deliveries (webhook_id, id);
create index webhook_deliveries_created on webhook_deliveries (created);

-- Up to which `seq` the events were turned into deliveries. Whoever holds this row's lock does it.
create table webhook_head (
    only_one boolean primary key default true check (only_one),
    last_seq bigint not null
);
insert into webhook_head (last_seq) select last_seq from outbox_head;
