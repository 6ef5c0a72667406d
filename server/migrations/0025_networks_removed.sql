-- A network that was deleted goes once the last server's machine has lost its card. Owner: server/src/networks.
alter table networks
    -- The action that deletes it, and ends when no node has it any more.
    add column removed_by bigint references actions;
