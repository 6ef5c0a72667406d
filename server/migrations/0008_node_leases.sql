-- When VMs marked for failover are off on this node at the latest, whatever became of it: written before each
-- grant of its lease is sent. Null: it was granted none, so nothing is known.
alter table nodes add column fenced_by timestamptz;
