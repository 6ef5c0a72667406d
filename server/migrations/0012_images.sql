-- Images that customers take, rescue systems. Owner: server/src/images.

alter table images
    alter column sha256 drop not null,
    alter column file_bytes drop not null,
    add column created_from      bigint,  -- number of the server; it may be gone
    add column created_from_name text,
    add column protect_delete    boolean not null default false,
    -- A file is there once the image has been made.
    add constraint images_file_check check (status = 'creating' or (sha256 is not null and file_bytes is not null));
create index images_sha256 on images (sha256);
create index images_labels on images using gin (labels jsonb_path_ops) with (fastupdate = off);

-- Systems that servers are repaired with.
create table rescue_systems (
    kind       text primary key check (kind in ('linux64')),
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    file_bytes bigint not null check (file_bytes > 0),
    disk_bytes bigint not null check (disk_bytes > 0)
);

-- ISOs that servers can boot from.
create table isos (
    id          bigint generated always as identity primary key,
    project_id  bigint references projects, -- null: offered to everybody
    name        text not null check (length(name) between 1 and 100),
    description text not null check (length(description) between 1 and 200),
    sha256      text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    file_bytes  bigint not null check (file_bytes > 0),
    created     timestamptz not null,
    deprecated  timestamptz
);
create unique index isos_name_key on isos (name) where project_id is null;

alter table servers
    -- The next start boots this instead of its own system, with this root password.
    add column rescue_sha256        text check (rescue_sha256 ~ '^[0-9a-f]{64}$'),
    add column rescue_password_hash text,
    add column rescue_ssh_keys      text[] not null default '{}',
    add column iso_id               bigint references isos,
    add check ((rescue_sha256 is null) = (rescue_password_hash is null));
create index servers_image_sha256 on servers (image_sha256);
create index servers_iso on servers (iso_id) where iso_id is not null;
