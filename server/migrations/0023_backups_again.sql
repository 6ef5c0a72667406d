-- A backup that cannot begin now does not stand in the way of the others.

-- Owner: server/src/backups.
alter table backup_plans
    -- It could not begin when it was due: it is tried again then.
    add column again timestamptz;
drop index backup_plans_due;
create index backup_plans_due on backup_plans ((greatest(due, again)), server_id);
