-- What else counts against quotas. Owner of the counts: server/src/quotas.

select count_usage_of('public_ips', 'primary_ips', '(kind = ''primary'' and not gone)::int',
                                    'floating_ips', '(kind = ''floating'' and not gone)::int');
select recount_usage_of('public_ips', 'old.gone <> new.gone',
                        'primary_ips', '(kind = ''primary'' and not gone)::int',
                        'floating_ips', '(kind = ''floating'' and not gone)::int');
