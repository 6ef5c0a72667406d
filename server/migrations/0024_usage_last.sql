-- What a project has is counted at the end of a transaction, behind its account's row: the last lock that a
-- transaction takes. Counted as the rows are written, two transactions that write to the same tables in another order
-- would wait for each other. Owner: server/src/quotas.

-- What transactions have added and not counted yet: always empty for everybody else.
create unlogged table usage_changes (
    id         bigint generated always as identity primary key,
    project_id bigint not null,
    kind       text not null,
    change     bigint not null
);

create function settle_usage() returns trigger language plpgsql as $$
begin
    delete from usage_changes where id = new.id;
    perform from accounts a join projects p on p.account_id = a.id where p.id = new.project_id
    for no key update of a;
    update usage set used = used + new.change where project_id = new.project_id and kind = new.kind;
    if not found then
        insert into usage (project_id, kind, used) values (new.project_id, new.kind, new.change);
    end if;
    return null;
end $$;

-- At the commit, or when it is asked for: `set constraints usage_settled immediate`.
create constraint trigger usage_settled after insert on usage_changes
    deferrable initially deferred for each row execute function settle_usage();

create or replace function count_usage() returns trigger language plpgsql as $$
begin
    for at in 0 .. tg_nargs - 1 by 2 loop
        execute format(
            'insert into usage_changes (project_id, kind, change)
             select project_id, %1$L, %2$s sum(%3$s) from changed where project_id is not null
             group by project_id having sum(%3$s) <> 0 order by project_id',
            tg_argv[at], case tg_op when 'INSERT' then '' else '-' end, tg_argv[at + 1]);
    end loop;
    return null;
end $$;

create or replace function recount_usage() returns trigger language plpgsql as $$
declare
    difference bigint;
begin
    for at in 0 .. tg_nargs - 1 by 2 loop
        execute format('select (select %1$s from (select $1.*) as row) - (select %1$s from (select $2.*) as row)',
                       tg_argv[at + 1]) into difference using new, old;
        if difference <> 0 then
            insert into usage_changes (project_id, kind, change) values (new.project_id, tg_argv[at], difference);
        end if;
    end loop;
    return null;
end $$;
