package lease

// The statements in the order of a lease's life. The schema's name is put in once, in New. All of them
// run READ COMMITTED: PostgreSQL then checks each predicate again on the locked row's newest version.

// claimSQL takes leases on due records and says which of their events wait; no payloads, so that the
// answer is small and the server never waits for a frozen relay's socket inside the transaction.
//
//   - due locks rows in the order of the queue, passing over rows that others are claiming, and over
//     suspects, which are claimed alone. Every predicate is on the locked row.
//   - taken is by id: by ctid it would hand out events without a lease. The ids come as an array, which
//     only the primary key's index answers: as a join they left it to statistics whether all records
//     were read.
//   - share is a fair part of the limits for each record; first_pass reads only what returning gave, and
//     adds bytes up one by one only where they are too many.
//   - rest is what the others left, for the records that have more.
//   - suspects have been due for longer than all that flows: the oldest ten tell whether there are any.
//
// $1 records, $2 token, $3 lease, $4 instance, $5 events, $6 bytes.
const claimSQL = `
with due as materialized (
  select id, token is not null as stale
    from baton.record
   where ready_at <= (select clock_timestamp()) and locked_until <= (select clock_timestamp()) and claims < 2
   order by ready_at
   limit $1
     for update skip locked),
` + takenSQL

// claimAloneSQL takes the lease of one suspect, the oldest due. Suspects are stale, hence at the left
// edge of the index.
const claimAloneSQL = `
with due as materialized (
  select id, token is not null as stale
    from baton.record
   where ready_at <= (select clock_timestamp()) and locked_until <= (select clock_timestamp()) and claims >= 2
   order by ready_at
   limit least($1, 1)
     for update skip locked),
` + takenSQL

// takenSQL goes on with the records that are due.
const takenSQL = `
taken as (
  update baton.record r
     set locked_until = clock_timestamp() + $3::interval, token = $2, locked_by = $4, claims = r.claims + 1
   where r.id = any (array(select id from due))
  returning r.id, r.next_position, r.ready_at, r.attempts, r.claims - 1 as claims,
            r.id = any (array(select id from due where stale)) as stale),
share as materialized (
  select greatest(1, $5::int / greatest(1, count(*))) as events,
         greatest(1, $6::bigint / greatest(1, count(*))) as bytes
    from taken),
first_pass as materialized (
  select t.id, t.next_position, t.ready_at, t.attempts, t.claims, t.stale, e.first, coalesce(cut.last, e.last) as last,
         coalesce(cut.bytes, e.bytes, 0) as bytes, case when cut.n > 0 then cut.n else e.n end as n,
         e.n = share.events or cut.n between 1 and e.n - 1 as hungry
    from taken t cross join share
   cross join lateral (
      select min(position) as first, max(position) as last, sum(bytes) as bytes, count(*) as n
        from (select position, bytes
                from baton.event
               where record = t.id and position >= t.next_position
               order by position
               limit share.events) f) e
   cross join lateral (
      select max(position) as last, sum(bytes) as bytes, count(*) as n
        from (select position, bytes, sum(bytes) over w as upto, row_number() over w as nth
                from baton.event
               where e.bytes > share.bytes and record = t.id and position between e.first and e.last
              window w as (order by position rows unbounded preceding)) f
       where upto <= share.bytes or nth = 1) cut),
rest as materialized (
  select ($5::int - sum(n)) / count(*) filter (where hungry) as events,
         ($6::bigint - sum(bytes)) / count(*) filter (where hungry) as bytes
    from first_pass having count(*) filter (where hungry) > 0)
select s.suspects, p.id, p.next_position, p.attempts, p.claims, p.stale, p.first,
       coalesce(more.last, p.last), p.bytes + coalesce(more.bytes, 0)
  from (select coalesce(bool_or(claims >= 2), false) as suspects from (
          select claims from baton.record
           where ready_at <= (select clock_timestamp()) and locked_until <= (select clock_timestamp())
           order by ready_at limit 10) oldest) s
  left join first_pass p on true
  left join rest on p.hungry and rest.events > 0 and rest.bytes > 0
  left join lateral (
    select max(position) as last, sum(bytes) as bytes
      from (select position, bytes, sum(bytes) over (order by position rows unbounded preceding) as upto
              from baton.event
             where rest.events is not null and record = p.id and position > p.last
             order by position
             limit rest.events) f
     where upto <= rest.bytes) more on true
 order by p.ready_at`

// extendSQL prolongs leases that are still alive: one that ran out may be in other hands' statement
// already. One row lock each, by primary key. A lease is known by its mark, id # token: a join would
// leave it to statistics whether all records were read. $1 ids, $2 tokens, $3 lease.
const extendSQL = `
update baton.record r
   set locked_until = clock_timestamp() + $3::interval
 where r.id = any ($1::bigint[])
   and r.id # r.token = any (array(select i # t from unnest($1::bigint[], $2::bigint[]) a(i, t)))
   and r.locked_until > clock_timestamp()
returning r.id, r.token`

// releaseSQL ends leases with work left. The rows are locked first, in the order of their ids and
// without waiting, so that one row which somebody else holds keeps none of the others back; what is
// left out comes back as busy or lost. Parked stays parked.
//
// $1 ids, $2 tokens, $3 stored, $4 delays in milliseconds, $5 attempts, $6 park, $7 errors.
const releaseSQL = `
with asked as materialized (
  select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::boolean[], $7::text[])
    a(id, token, stored, delay, attempts, park, err)),
mine as materialized (
  select r.id
    from baton.record r where r.id = any ($1::bigint[]) and r.id # r.token = any (array(select id # token from asked))
   order by r.id for update of r skip locked),
released as (
  update baton.record r
     set (next_position, locked_until, token, locked_by, claims, empties, attempts, last_error, ready_at) = (
           select greatest(r.next_position, a.stored + 1), '-infinity'::timestamptz, null::bigint, null::bigint, 0, 0,
                  a.attempts, coalesce(nullif(a.err, ''), r.last_error),
                  case when a.park or r.ready_at = 'infinity' then 'infinity'
                       else clock_timestamp() + a.delay * interval '1 ms' end
             from asked a where a.id = r.id and a.token = r.token limit 1)
   where r.id = any (array(select id from mine))
  returning r.id),
told as ( -- the event after a skipped one is stored
  delete from baton.gap g using asked a
   where a.id = any (array(select id from released)) and g.record = a.id and g.position < a.stored)
select a.id, a.token, exists (select from baton.record r where r.id = a.id and r.token = a.token offset 0)
  from asked a where a.id <> all (array(select id from released))`

// ackSQL is the function of the same name: three statements with a snapshot each. $4 careful.
const ackSQL = `select id, token, busy from baton.ack($1::bigint[], $2::bigint[], $3::bigint[], $4)`

// abandonSQL releases whatever a claim took whose answer was lost with its connection. The token is in
// no index: it walks the due records, a few times after each such loss. $1 token.
const abandonSQL = `
update baton.record
   set locked_until = '-infinity', token = null, locked_by = null, claims = claims - 1
 where token = $1 and ready_at <= (select clock_timestamp())`

// boundsSQL bounds a transaction of ours from within, since a pooler may not pass a session's settings.
// The plans shall not hang on statistics: those of an empty outbox, or a plan that a session made and
// kept when it was empty, would read the whole backlog for each record. Every table here is to be
// reached through its index, row by row. Acks are flushed to disk as claims are: one that a crash undid
// would leave its record leased by nobody until the lease ends.
const boundsSQL = `
select set_config('statement_timeout', '2s', true), set_config('lock_timeout', '500ms', true),
       set_config('idle_in_transaction_session_timeout', '2s', true), set_config('synchronous_commit', 'on', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

const beginSQL = `begin isolation level read committed read write`

// endStuckSQL ends sessions of relays of this role that have been in a transaction for too long: a
// frozen relay must not hold rows that others wait for. $1 the bound, $2 how our sessions' application names begin.
const endStuckSQL = `
select count(*) filter (where pg_terminate_backend(pid))
  from pg_stat_activity
 where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
   and starts_with(application_name, $2) and xact_start < clock_timestamp() - $1::interval`
