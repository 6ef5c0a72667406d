-- Volumes: disks that live longer than servers. Owner: server/src/volumes.

create table volumes (
    id             bigint generated always as identity primary key,
    project_id     bigint not null references projects,
    name           text not null check (length(name) between 1 and 64),
    size_gib       integer not null check (size_gib between 10 and 10240),
    file_system    text check (file_system in ('ext4', 'xfs')), -- that it is made with
    location_id    bigint not null references locations,
    -- Where it lies, or is being made; null until its first server has a place.
    node_id        bigint references nodes,
    -- It is there, perhaps with something on it.
    made           boolean not null default false,
    server_id      bigint references servers,
    -- The next system that is installed on its server mounts it.
    automount      boolean not null default false,
    labels         jsonb not null default '{}',
    protect_delete boolean not null default false,
    -- The action that works on it, and holds it until it is where it belongs; null when none does.
    locked_by      bigint references actions,
    -- Deleted by the customer: it is only there until its node has lost it.
    gone           boolean not null default false,
    created        timestamptz not null,
    check (not made or node_id is not null),
    check (not gone or server_id is null)
);
create unique index volumes_name_key on volumes (project_id, name) where not gone;
create index volumes_project on volumes (project_id, id);
create index volumes_server on volumes (server_id) where server_id is not null;
create index volumes_node on volumes (node_id) where node_id is not null;
create index volumes_labels on volumes using gin (labels jsonb_path_ops) with (fastupdate = off);

select count_usage_of('volumes', 'volumes', '(not gone)::int',
                      'volume_gib', 'case when gone then 0 else size_gib end');
select recount_usage_of('volumes', 'old.size_gib <> new.size_gib or old.gone <> new.gone',
                        'volumes', '(not gone)::int', 'volume_gib', 'case when gone then 0 else size_gib end');
