-- Backups of servers: images that are taken once a day and go with their server.

-- Which servers are backed up, and when next. Owner: server/src/backups.
create table backup_plans (
    server_id  bigint primary key references servers on delete cascade,
    project_id bigint not null references projects,
    -- The first hour of its window, in UTC: 22 is "22-02".
    first_hour smallint not null check (first_hour in (2, 6, 10, 14, 18, 22)),
    -- When the next backup is to begin. One that could not begin then is begun as soon as it can.
    due        timestamptz not null
);
create index backup_plans_due on backup_plans (due);

-- Owner: server/src/images.
alter table images
    -- The server that a backup belongs to.
    add column bound_to bigint,
    add constraint images_bound_check check ((kind = 'backup') = (bound_to is not null));
create index images_bound_to on images (bound_to, created) where bound_to is not null and deleted is null;

-- What becomes a snapshot counts as one.
drop trigger usage_recounted on images;
select recount_usage_of('images',
                        '(old.deleted is distinct from new.deleted or old.kind <> new.kind) and new.project_id is not null',
                        'snapshots', '(kind = ''snapshot'' and deleted is null)::int');
