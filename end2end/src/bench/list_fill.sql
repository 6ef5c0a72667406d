-- As many servers as `bench.servers` says, every `bench.share`-th in the first project, the rest in a hundred others.
insert into projects (account_id, name, created)
select (select min(id) from accounts), 'bench-' || n, now() from generate_series(1, 100) n;

insert into servers (project_id, name, status, server_type_id, image_id, location_id, mac,
                     cores, memory_mib, disk_gib, labels, image_sha256, created)
select case when n % current_setting('bench.share')::int = 0 then (select min(id) from projects)
            else (select min(id) from projects) + 1 + n % 100 end,
       'server-' || n,
       case when n % 7 = 0 then 'off' else 'running' end,
       (select min(id) from server_types), (select min(id) from images),
       (select location_id from server_type_prices order by server_type_id, location_id limit 1),
       ('52:54:' || lpad(to_hex(n / 16777216), 2, '0') || ':' || lpad(to_hex(n / 65536 % 256), 2, '0') || ':'
           || lpad(to_hex(n / 256 % 256), 2, '0') || ':' || lpad(to_hex(n % 256), 2, '0'))::macaddr,
       1, 128, 1, jsonb_build_object('env', case when n % 3 = 0 then 'prod' else 'dev' end),
       (select sha256 from images order by id limit 1), now() - n * interval '1 second'
from generate_series(1, current_setting('bench.servers')::int) n;

analyze;
