-- The outbox of live events: server/src/live. Load samples: server/src/load.

-- `id` is the order of writing, `seq` the order of becoming visible: it is given once the
-- writer has committed, by one publisher at a time, without gaps, so readers may trust it.
create table outbox (
    id         bigint generated always as identity primary key,
    seq        bigint unique,
    project_id bigint not null,
    at         timestamptz not null,
    change     jsonb not null -- model::event::Change
);
create index outbox_unpublished on outbox (id) where seq is null;
create index outbox_project on outbox (project_id, seq);

-- The newest `seq` that was given. Whoever holds this row's lock is the publisher.
create table outbox_head (
    only_one boolean primary key default true check (only_one),
    last_seq bigint not null
);
insert into outbox_head (last_seq) values (0);

-- Servers that somebody looks at now, in any control plane.
create table load_watches (
    server_id bigint primary key,
    until     timestamptz not null
);

-- One hour at fine grain, 30 days by the minute. Partitions are made and dropped by server/src/load.
create table load_fine (
    server_id             bigint not null,
    at                    timestamptz not null,
    cpu_millicores        integer not null,
    memory_used_bytes     bigint not null,
    disk_read_bytes_per_s bigint not null,
    disk_write_bytes_per_s bigint not null,
    disk_read_ops_per_s   integer not null,
    disk_write_ops_per_s  integer not null,
    net_in_bytes_per_s    bigint not null,
    net_out_bytes_per_s   bigint not null,
    primary key (server_id, at)
) partition by range (at);

create table load_minute (like load_fine including defaults, primary key (server_id, at)) partition by range (at);

-- Minutes that ended by then have their means in load_minute.
create table load_rollup (
    only_one   boolean primary key default true check (only_one),
    done_until timestamptz not null
);
insert into load_rollup (done_until) values ('epoch');
