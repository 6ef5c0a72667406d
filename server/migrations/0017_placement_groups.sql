-- Placement groups: servers that stand on different nodes. Owner: server/src/placement_groups.

create table placement_groups (
    id         bigint generated always as identity primary key,
    project_id bigint not null references projects,
    name       text not null check (length(name) between 1 and 64),
    labels     jsonb not null default '{}',
    created    timestamptz not null,
    constraint placement_groups_name_key unique (project_id, name)
);
create index placement_groups_project on placement_groups (project_id, id);
create index placement_groups_labels on placement_groups using gin (labels jsonb_path_ops) with (fastupdate = off);
select count_usage_of('placement_groups', 'placement_groups', '1');

-- A server is in one group at most. Of one group no two stand on one node.
alter table servers
    add column placement_group_id bigint constraint servers_placement_group_fk references placement_groups;
create unique index servers_spread_key on servers (placement_group_id, node_id)
    where placement_group_id is not null and node_id is not null;
create index servers_placement_group on servers (placement_group_id) where placement_group_id is not null;
