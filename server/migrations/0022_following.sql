-- Queues of their own for following, images and backups, and jobs of which one at a time is enough.

-- Owner: server/src/jobs.
alter table jobs drop constraint jobs_queue_check;
alter table jobs add constraint jobs_queue_check
    check (queue in ('interactive', 'background', 'follow', 'image', 'backup'));
-- What it is about, when one unfinished job of its kind about that is enough.
alter table jobs add column key bigint;
create unique index jobs_key on jobs (kind, key) where finished is null;

-- Actions that end when the node of a server was told what its machine is made of. Owner: server/src/servers.
create table follow_actions (
    action_id bigint primary key references actions on delete cascade,
    -- It may be gone when the action ends.
    server_id bigint not null
);
create index follow_actions_server on follow_actions (server_id);
