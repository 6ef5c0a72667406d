-- Private networks. Owner of all tables: server/src/networks.

-- VXLAN network identifiers. That of a network that is gone comes back after all others were used.
create sequence network_vnis minvalue 1 maxvalue 16777215 cycle;

create table networks (
    id             bigint generated always as identity primary key,
    project_id     bigint not null references projects,
    name           text not null check (length(name) between 1 and 64),
    labels         jsonb not null default '{}',
    ip_range       cidr not null check (family(ip_range) = 4),
    vni            integer not null default nextval('network_vnis') constraint networks_vni_key unique
                   check (vni between 1 and 16777215),
    protect_delete boolean not null default false,
    -- Deleted by the customer: it is only there until no node has it any more.
    gone           boolean not null default false,
    -- Grows with every change of what nodes are told, and the one that all were told last.
    revision       bigint not null default 1,
    revision_told  bigint not null default 0 check (revision_told <= revision),
    created        timestamptz not null
);
create unique index networks_name_key on networks (project_id, name) where not gone;
create index networks_project on networks (project_id, id);
create index networks_labels on networks using gin (labels jsonb_path_ops) with (fastupdate = off);

create table network_subnets (
    network_id   bigint not null references networks on delete cascade,
    ip_range     cidr not null,
    network_zone text not null,
    primary key (network_id, ip_range)
);

create table network_routes (
    network_id  bigint not null references networks on delete cascade,
    destination cidr not null,
    gateway     inet not null,
    primary key (network_id, destination)
);

-- The card of a server in a network.
create table network_members (
    network_id bigint not null references networks,
    server_id  bigint not null references servers,
    mac        macaddr not null constraint network_members_mac_key unique,
    -- The server is losing it.
    leaving    boolean not null default false,
    primary key (network_id, server_id)
);
create index network_members_server on network_members (server_id);

-- An address of a network belongs to one server at most.
create table network_addresses (
    network_id bigint not null,
    ip         inet not null check (family(ip) = 4 and masklen(ip) = 32),
    server_id  bigint not null,
    alias      boolean not null,
    -- The server is losing it: nobody else gets it before its node knows.
    leaving    boolean not null default false,
    constraint network_addresses_key primary key (network_id, ip),
    foreign key (network_id, server_id) references network_members on delete cascade
);
create unique index network_addresses_own on network_addresses (network_id, server_id) where not alias;
create index network_addresses_server on network_addresses (server_id);

-- The nodes that were told, or are about to be.
create table network_nodes (
    network_id bigint not null references networks on delete cascade,
    node_id    bigint not null references nodes on delete cascade,
    primary key (network_id, node_id)
);

select count_usage_of('networks', 'networks', '(not gone)::int');
select recount_usage_of('networks', 'old.gone <> new.gone', 'networks', '(not gone)::int');
