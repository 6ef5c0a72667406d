-- Public addresses, primary IPs and floating IPs. Owner of all three tables: server/src/addresses.

-- What can be handed out: one row for each IPv4 address, and for each IPv6 /64 (its first address).
alter table addresses
    -- The operator's network that it is of: 10.77.0.0/24, or 2001:db8:7::/48.
    add column pool    cidr,
    -- Not any more: it stays with its holder, and is handed to nobody after that.
    add column offered boolean not null default true;
update addresses set pool = network(set_masklen(ip, prefix));
alter table addresses
    alter column pool set not null,
    add constraint addresses_in_pool check (ip <<= pool),
    -- Null while it is held. The longest free comes first; what was never held is free since 1970.
    alter column free_since drop not null;

-- What a customer holds: an address, for a server (primary) or to be moved between servers (floating).
create table public_ips (
    id             bigint generated always as identity primary key,
    kind           text not null check (kind in ('primary', 'floating')),
    family         text not null check (family in ('ipv4', 'ipv6')),
    project_id     bigint not null references projects,
    -- An address has one holder at most.
    address_id     bigint not null constraint public_ips_address_key unique references addresses,
    name           text not null check (length(name) between 1 and 64),
    description    text not null default '' check (length(description) <= 200),
    labels         jsonb not null default '{}',
    -- Goes with its server.
    auto_delete    boolean not null default false,
    protect_delete boolean not null default false,
    -- Whose it is.
    server_id      bigint references servers,
    -- Whose node may still have it: until that has lost it, no other node gets it.
    leaving_id     bigint references servers,
    -- The action that moves it; null when none does.
    locked_by      bigint references actions,
    -- Deleted by the customer: it is only there until the node of `leaving_id` has lost it.
    gone           boolean not null default false,
    created        timestamptz not null,
    check (not gone or server_id is null)
);
create unique index public_ips_name_key on public_ips (project_id, kind, name) where not gone;
create unique index public_ips_primary_key on public_ips (server_id, family) where kind = 'primary';
create index public_ips_project on public_ips (project_id, kind, id);
create index public_ips_server on public_ips (server_id);
create index public_ips_leaving on public_ips (leaving_id) where leaving_id is not null;

-- Reverse names: of an IPv4 address one, of an IPv6 network one for each of its addresses. They belong to the
-- holder and go with it.
create table reverse_names (
    public_ip_id bigint not null references public_ips on delete cascade,
    ip           inet not null,
    name         text not null check (length(name) between 1 and 253),
    primary key (public_ip_id, ip)
);

-- The addresses of servers become primary IPs that go with them.
insert into public_ips (kind, family, project_id, address_id, name, auto_delete, server_id, created)
select 'primary', case family(a.ip) when 4 then 'ipv4' else 'ipv6' end, s.project_id, a.id,
       'primary_ip-' || a.id, true, s.id, s.created
from addresses a join servers s on s.id = a.server_id order by a.id;
update addresses set free_since = null where server_id is not null;

drop index addresses_free;
alter table addresses drop column server_id;
create index addresses_free on addresses (location_id, family(ip), free_since, id)
    where free_since is not null and offered;
