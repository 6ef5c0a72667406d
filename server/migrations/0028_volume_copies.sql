-- A volume goes to another node: until nothing is left of it there, or here. Owner: server/src/volumes.

alter table volumes
    -- A second node that may have a copy of it: where it is being brought, or where it lay before. Never the one where
    -- it lies.
    add column other_node_id bigint references nodes,
    add check (other_node_id is null or made and other_node_id <> node_id);
create index volumes_other_node on volumes (other_node_id) where other_node_id is not null;
