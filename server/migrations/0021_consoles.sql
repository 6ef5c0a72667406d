-- Tickets for the consoles of servers: each opens one, once. Owner: server/src/consoles.

create table console_tickets (
    hash            bytea primary key check (length(hash) = 32), -- SHA-256 of the ticket
    server_id       bigint not null references servers on delete cascade,
    password_sealed bytea not null, -- sealed with the installation's secret key
    expires         timestamptz not null
);
create index console_tickets_server on console_tickets (server_id, expires);
