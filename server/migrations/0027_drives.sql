-- What is in a server's drive stays what it was given, also when the ISO's file is replaced.

alter table servers add iso_sha256 text check (iso_sha256 ~ '^[0-9a-f]{64}$');
update servers set iso_sha256 = isos.sha256 from isos where isos.id = servers.iso_id;
alter table servers add constraint servers_iso_check check ((iso_id is null) = (iso_sha256 is null));
