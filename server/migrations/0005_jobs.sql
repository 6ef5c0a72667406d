-- The durable queue. Owner: server/src/jobs; states are drawn there.

create table jobs (
    id             bigint generated always as identity primary key,
    kind           text not null,
    queue          text not null check (queue in ('interactive', 'background')),
    state          text not null check (state in ('ready', 'undoing', 'done', 'undone')),
    step           text not null,         -- the step to do (ready) or to undo (undoing) next
    data           jsonb not null,        -- the saga's own typed data
    action_id      bigint references actions,
    attempts       integer not null default 0, -- of the present step
    -- When it is due. A lease moves it to the lease's end, so a dead worker's job falls due by itself.
    run_at         timestamptz not null,
    deadline       timestamptz not null,
    staff_told     timestamptz,
    -- Who works on it, and a number that grows with each lease taken.
    lease_owner    uuid,
    fence          bigint not null default 0,
    customer_error jsonb,                 -- model::action::ActionError: why it is being undone
    operator_error text,                  -- the last error, with its causes
    step_started   timestamptz,
    request_id     text,                  -- of the request that asked for it; agents are told it
    created        timestamptz not null,
    finished       timestamptz,
    check ((state in ('done', 'undone')) = (finished is not null))
);
create index jobs_due on jobs (queue, run_at, id) where finished is null;
create index jobs_staff_told on jobs (staff_told) where staff_told is not null and finished is null;
create index jobs_action on jobs (action_id);
create index jobs_finished on jobs (finished) where finished is not null;
