-- Who holds the advisory lock of the fix. The two halves are those of the key, as pg_locks has them.
select
    activity.pid,
    activity.usename as user_name,
    coalesce(host(activity.client_addr), 'this machine') as client,
    to_char(activity.backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as since
from pg_locks
inner join pg_stat_activity as activity on pg_locks.pid = activity.pid
where
    pg_locks.locktype = 'advisory'
    and pg_locks.granted
    and pg_locks.database = (select oid from pg_database where datname = current_database())
    and (pg_locks.classid::bigint << 32) | pg_locks.objid::bigint = %(key)s
