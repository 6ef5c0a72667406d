-- Changes of what a server is made of. Owner: server/src/servers.

alter table servers
    -- The file that its disk was made from; the image may get another one.
    add column image_sha256  text check (image_sha256 ~ '^[0-9a-f]{64}$'),
    -- Grows with every change of rows that its machine is made of, and the one its node was told last.
    add column revision      bigint not null default 1,
    add column revision_told bigint not null default 0 check (revision_told <= revision);

update servers set image_sha256 = images.sha256, revision_told = case when node_id is null then 0 else 1 end
from images where images.id = servers.image_id;

alter table servers alter column image_sha256 set not null;

alter table action_resources drop constraint action_resources_kind_check;
alter table action_resources add constraint action_resources_kind_check check (kind in (
    'server', 'image', 'iso', 'volume', 'network', 'firewall', 'floating_ip', 'primary_ip', 'certificate',
    'placement_group', 'load_balancer', 'zone'));
