-- Servers: server/src/servers. Actions: server/src/actions.

create table servers (
    id                 bigint generated always as identity primary key,
    project_id         bigint not null references projects,
    name               text not null check (length(name) between 1 and 63),
    status             text not null check (status in ('initializing', 'starting', 'running', 'stopping',
                                                       'off', 'deleting', 'migrating', 'rebuilding', 'unknown')),
    server_type_id     bigint not null references server_types,
    image_id           bigint not null references images,
    location_id        bigint not null references locations,
    node_id            bigint references nodes, -- null until placed
    mac                macaddr not null constraint servers_mac_key unique,
    -- Copied at order, so that a later change of the type does not change the machine.
    cores              integer not null check (cores > 0),
    memory_mib         integer not null check (memory_mib > 0),
    disk_gib           integer not null check (disk_gib > 0),
    ssh_public_keys    text[] not null default '{}',
    root_password_hash text, -- crypt(3) SHA-512; null with an SSH key
    user_data          text check (length(user_data) <= 32768),
    labels             jsonb not null default '{}',
    protect_delete     boolean not null default false,
    protect_rebuild    boolean not null default false,
    -- The action that holds the server; null when none does.
    locked_by          bigint,
    -- When the agent last told the VM's state; older news is ignored.
    observed           timestamptz,
    created            timestamptz not null,
    constraint servers_name_key unique (project_id, name)
);
create index servers_project_id on servers (project_id, id);
create index servers_project_created on servers (project_id, created, id);
create index servers_project_status on servers (project_id, status, id);
create index servers_node on servers (node_id);
-- For selectors with a value (`@>`). One by key alone reads the project's servers: an index of keys
-- would hold nearly all of them, and the planner would take it for pairs too. No pending list,
-- because every search would have to read it.
create index servers_labels on servers using gin (labels jsonb_path_ops) with (fastupdate = off);

-- How many servers each project has, so that a page of a long list need not count them, and a
-- quota holds when many are ordered at once. Kept by the database; nobody else writes it.
create table server_counts (
    project_id bigint primary key references projects,
    servers    bigint not null check (servers >= 0)
);

create function count_servers() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into server_counts as counts (project_id, servers)
        select project_id, count(*) from changed group by project_id order by project_id
        on conflict (project_id) do update set servers = counts.servers + excluded.servers;
    else
        update server_counts as counts set servers = counts.servers - gone.servers
        from (select project_id, count(*) as servers from changed group by project_id) as gone
        where counts.project_id = gone.project_id;
    end if;
    return null;
end $$;

create trigger servers_counted_in after insert on servers
    referencing new table as changed for each statement execute function count_servers();
create trigger servers_counted_out after delete on servers
    referencing old table as changed for each statement execute function count_servers();

alter table addresses
    add constraint addresses_server_fk foreign key (server_id) references servers;
create unique index addresses_server_key on addresses (server_id, family(ip)) where server_id is not null;

create table actions (
    id            bigint generated always as identity primary key,
    project_id    bigint not null references projects,
    command       text not null,
    status        text not null check (status in ('running', 'success', 'error')),
    progress      smallint not null check (progress between 0 and 100),
    steps         jsonb not null default '[]', -- model::action::ActionStep
    error_code    text,
    error_message text,
    started       timestamptz not null,
    finished      timestamptz,
    check ((status = 'running') = (finished is null)),
    check ((status = 'error') = (error_code is not null))
);
create index actions_project on actions (project_id, id);
create index actions_project_status on actions (project_id, status, id);
create index actions_project_command on actions (project_id, command, id);
create index actions_project_started on actions (project_id, started, id);
create index actions_project_finished on actions (project_id, finished, id);

-- Kept when the resource is gone: the action says what became of it.
create table action_resources (
    action_id bigint not null references actions on delete cascade,
    kind      text not null check (kind in ('server', 'image')),
    id        bigint not null,
    primary key (action_id, kind, id)
);
create index action_resources_of on action_resources (kind, id, action_id);
