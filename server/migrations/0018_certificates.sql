-- Certificates that customers upload. Owner: server/src/certificates.

create table certificates (
    id               bigint generated always as identity primary key,
    project_id       bigint not null references projects,
    name             text not null check (length(name) between 1 and 64),
    certificate      text not null,     -- PEM: the certificate, then those that sign it, in order
    key_sealed       bytea not null,    -- its private key, PEM, sealed with the installation's secret key
    fingerprint      text not null,     -- SHA-256 of the certificate, in colon form
    not_valid_before timestamptz not null,
    not_valid_after  timestamptz not null,
    domain_names     text[] not null,
    labels           jsonb not null default '{}',
    created          timestamptz not null,
    constraint certificates_name_key unique (project_id, name)
);
create index certificates_project on certificates (project_id, id);
create index certificates_labels on certificates using gin (labels jsonb_path_ops) with (fastupdate = off);
select count_usage_of('certificates', 'certificates', '1');
