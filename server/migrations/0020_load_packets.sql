-- Packets of network cards, for metrics. Owner: server/src/load.

alter table load_fine
    add column net_in_packets_per_s  integer not null default 0,
    add column net_out_packets_per_s integer not null default 0;

alter table load_minute
    add column net_in_packets_per_s  integer not null default 0,
    add column net_out_packets_per_s integer not null default 0;
