-- Firewalls. Owner of all three tables: server/src/firewalls.

create table firewalls (
    id         bigint generated always as identity primary key,
    project_id bigint not null references projects,
    name       text not null check (length(name) between 1 and 64),
    labels     jsonb not null default '{}',
    rules      jsonb not null default '[]', -- as the API takes them
    created    timestamptz not null,
    constraint firewalls_name_key unique (project_id, name)
);
create index firewalls_project on firewalls (project_id, id);
create index firewalls_labels on firewalls using gin (labels jsonb_path_ops) with (fastupdate = off);

-- The servers that a firewall is applied to by their number.
create table firewall_servers (
    firewall_id bigint not null references firewalls on delete cascade,
    server_id   bigint not null references servers on delete cascade,
    primary key (firewall_id, server_id)
);
create index firewall_servers_server on firewall_servers (server_id);

-- Those that it is applied to by their labels.
create table firewall_selectors (
    firewall_id bigint not null references firewalls on delete cascade,
    selector    text not null check (length(selector) between 1 and 2048),
    primary key (firewall_id, selector)
);

select count_usage_of('firewalls', 'firewalls', '1');
