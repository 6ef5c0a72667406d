-- What a server shows of other subjects, a view of each subject's own, so that servers are read in one statement
-- (server/src/servers/queries/render.rs). Whoever changes a table changes its view.

-- Owner: server/src/volumes.
create view volumes_of_server as
select server_id, array_agg(id order by id) as volumes
from volumes where server_id is not null group by server_id;

-- Owner: server/src/addresses, which reads it (queries/card.rs).
create view public_ips_of_server as
select p.server_id,
       jsonb_agg(jsonb_build_object('id', p.id, 'kind', p.kind, 'ip', host(a.ip), 'names',
           coalesce((select jsonb_agg(jsonb_build_object('ip', host(r.ip), 'dns_ptr', r.name) order by r.ip)
                     from reverse_names r where r.public_ip_id = p.id), '[]')) order by p.id) as public_ips
from public_ips p join addresses a on a.id = p.address_id
where p.server_id is not null group by p.server_id;

-- Owner: server/src/networks. As the API shows it.
create view private_nets_of_server as
select m.server_id,
       jsonb_agg(jsonb_build_object('network', m.network_id, 'ip', host(own.ip), 'mac_address', m.mac, 'alias_ips',
           array(select host(a.ip) from network_addresses a
                 where a.network_id = m.network_id and a.server_id = m.server_id and a.alias and not a.leaving
                 order by a.ip)) order by m.network_id) as private_nets
from network_members m
join network_addresses own
  on own.network_id = m.network_id and own.server_id = m.server_id and not own.alias
where not m.leaving group by m.server_id;

-- Owner: server/src/backups.
create view windows_of_server as select server_id, first_hour from backup_plans;

-- Which edition of the catalog this is: another one after every change of it. Owner: server/src/catalog.
create table catalog_edition (
    one     boolean primary key default true check (one),
    edition text not null default gen_random_uuid()::text
);
insert into catalog_edition default values;

create function catalog_changed() returns trigger language plpgsql as $$
begin
    update catalog_edition set edition = gen_random_uuid()::text;
    return null;
end $$;
create trigger catalog_changed after insert or update or delete or truncate on locations
    for each statement execute function catalog_changed();
create trigger catalog_changed after insert or update or delete or truncate on server_types
    for each statement execute function catalog_changed();
create trigger catalog_changed after insert or update or delete or truncate on server_type_prices
    for each statement execute function catalog_changed();
