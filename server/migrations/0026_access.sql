-- Whoever ends a right says so on the channel `access`: what was opened with it asks whether it may go on.

create function tell_access() returns trigger language plpgsql as $$
begin
    perform pg_notify('access', tg_argv[0] || ' ' || (to_jsonb(old) ->> tg_argv[1]));
    return null;
end
$$;

-- Not of sessions whose time is up: who was let in by one has asked by then.
create trigger sessions_tell_access after delete on sessions
    for each row when (old.expires > now()) execute function tell_access('user', 'user_id');
create trigger memberships_tell_access after delete or update on memberships
    for each row execute function tell_access('user', 'user_id');
create trigger tokens_tell_access after delete on tokens
    for each row execute function tell_access('token', 'id');
create trigger accounts_tell_access after update of suspended on accounts
    for each row when (old.suspended is null and new.suspended is not null)
    execute function tell_access('account', 'id');

-- A ticket lives and dies with what it was asked for with, and so does the console that it opens.
delete from console_tickets;
alter table console_tickets
    add project_id   bigint not null references projects,
    add token_id     bigint references tokens on delete cascade,
    add session_hash bytea references sessions on delete cascade,
    add constraint console_tickets_key_check check (num_nonnulls(token_id, session_hash) = 1);
