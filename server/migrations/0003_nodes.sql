-- The certificate authority, nodes and their enrolment. Owner: server/src/nodes.

create table certificate_authority (
    only_one        boolean primary key default true check (only_one),
    certificate_pem text not null,
    key_sealed      bytea not null, -- sealed with the installation's secret key
    created         timestamptz not null
);

create table nodes (
    id                  bigint generated always as identity primary key,
    location_id         bigint not null references locations,
    name                text not null constraint nodes_name_key unique check (name ~ '^[a-z0-9.-]{1,63}$'),
    address             text,           -- https://host:port; null until it has enrolled
    enrol_token_hash    bytea check (length(enrol_token_hash) = 32), -- SHA-256; null once used
    enrol_expires       timestamptz,
    certificate_expires timestamptz,
    accepts_servers     boolean not null default true,
    state               text not null default 'new' check (state in ('new', 'up', 'sick', 'down')),
    facts               jsonb,          -- model::agent::NodeFacts, as last told
    faults              jsonb not null default '[]',
    last_seen           timestamptz,
    -- The control plane that holds the node's stream; another takes over when the lease ends.
    lease_owner         uuid,
    lease_until         timestamptz,
    lease_fence         bigint not null default 0,
    created             timestamptz not null
);
create index nodes_location on nodes (location_id);
create index nodes_lease_owner on nodes (lease_owner);

-- Control planes that share the nodes' streams among them, each until its time runs out.
create table control_planes (
    id          uuid primary key,
    alive_until timestamptz not null
);

-- Addresses that can be handed out. One row each: a server has it, or nobody.
-- Owner: server/src/networks.
create table addresses (
    id          bigint generated always as identity primary key,
    location_id bigint not null references locations,
    ip          inet not null constraint addresses_ip_key unique,
    prefix      smallint not null check (prefix between 0 and 128),
    gateway     inet not null,
    server_id   bigint, -- references servers; see 0004
    free_since  timestamptz not null
);
create index addresses_free on addresses (location_id, free_since, id) where server_id is null;
