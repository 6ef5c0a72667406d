-- Locations, server types, prices: server/src/catalog. Images: server/src/images.

create table locations (
    id           bigint generated always as identity primary key,
    name         text not null constraint locations_name_key unique check (name ~ '^[a-z0-9-]{1,32}$'),
    description  text not null,
    country      text not null check (country ~ '^[A-Z]{2}$'),
    city         text not null,
    latitude     double precision not null,
    longitude    double precision not null,
    network_zone text not null
);

create table server_types (
    id           bigint generated always as identity primary key,
    name         text not null constraint server_types_name_key unique check (name ~ '^[a-z0-9-]{1,32}$'),
    description  text not null,
    cores        integer not null check (cores between 1 and 128),
    memory_mib   integer not null check (memory_mib between 64 and 4194304),
    disk_gib     integer not null check (disk_gib between 1 and 65536),
    cpu_type     text not null check (cpu_type in ('shared', 'dedicated')),
    storage_type text not null default 'local' check (storage_type in ('local', 'network')),
    deprecated   boolean not null default false
);

-- A server type is offered where it has a price. Millionths of the currency's unit.
create table server_type_prices (
    server_type_id         bigint not null references server_types,
    location_id            bigint not null references locations,
    currency               text not null check (currency ~ '^[A-Z]{3}$'),
    hourly_micros          bigint not null check (hourly_micros >= 0),
    monthly_micros         bigint not null check (monthly_micros >= 0),
    traffic_per_tb_micros  bigint not null check (traffic_per_tb_micros >= 0),
    included_traffic_bytes bigint not null check (included_traffic_bytes >= 0),
    primary key (server_type_id, location_id)
);

create table images (
    id          bigint generated always as identity primary key,
    kind        text not null check (kind in ('system', 'snapshot', 'backup', 'app')),
    status      text not null check (status in ('available', 'creating', 'unavailable')),
    project_id  bigint references projects, -- null: offered to everybody
    name        text check (name ~ '^[a-z0-9.-]{1,64}$'),
    description text not null check (length(description) between 1 and 200),
    sha256      text not null check (sha256 ~ '^[0-9a-f]{64}$'), -- names the file on the nodes
    file_bytes  bigint not null check (file_bytes > 0),
    disk_bytes  bigint not null check (disk_bytes > 0),
    os_flavor   text not null,
    os_version  text,
    labels      jsonb not null default '{}',
    created     timestamptz not null,
    deprecated  timestamptz,
    deleted     timestamptz,
    check ((kind = 'system') = (project_id is null))
);
create unique index images_system_name_key on images (name) where project_id is null and deleted is null;
create index images_project on images (project_id, id) where project_id is not null;

create table ssh_keys (
    id          bigint generated always as identity primary key,
    project_id  bigint not null references projects,
    name        text not null check (length(name) between 1 and 100),
    fingerprint text not null, -- MD5 in colon form
    public_key  text not null check (length(public_key) <= 16384),
    labels      jsonb not null default '{}',
    created     timestamptz not null,
    constraint ssh_keys_name_key unique (project_id, name),
    constraint ssh_keys_fingerprint_key unique (project_id, fingerprint)
);
