-- What the machine did by the newest news, those of the time `observed`; null: none was there, or
-- its node is down. Kept also while an action holds the server, for when it lets go.
alter table servers add column seen text check (seen in ('running', 'paused', 'off', 'crashed'));
