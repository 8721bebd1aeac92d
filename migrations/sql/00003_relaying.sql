-- +goose Up
set local lock_timeout = '2s';

-- Ends leases whose events are stored up to lasts. Returns the leases that it did not end: busy ones
-- (another session holds the row's lock; only looked for when careful) and lost ones.
--
-- Three statements with a snapshot each. The gate and the look for newer events in ONE statement would
-- answer on a snapshot older than the gate, and strand the event of a writer that committed between.
--
-- No plan here may hang on statistics: those of a table that was empty once would make a join read all
-- records, and an ack run into its time-out. So rows are reached by an array of ids, a look at events is
-- a subquery that is not flattened (offset 0), a lease is known by its mark, id # token, and parked rows
-- by a function that is in no index.
-- +goose StatementBegin
create function baton.ack(ids bigint[], lasts bigint[], tokens bigint[], careful boolean default false)
  returns table (id bigint, token bigint, busy boolean)
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare
  n int := cardinality(ids);
  marks bigint[] := array(select i # t from unnest(ids, tokens) with ordinality a(i, t, o) order by o);
  busy_ids bigint[] := '{}';
  busy_tokens bigint[] := '{}';
  free_ids bigint[];
  free_lasts bigint[];
  free_tokens bigint[];
  free_marks bigint[];
  gone bigint[];
  gone_next bigint[];
  kept bigint[];
  told bigint[]; -- of both, those that got on: a claim that saw no event tells of no gap
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'baton: ack needs READ COMMITTED, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'invalid_transaction_state';
  end if;

  -- 0 an ack that would wait for a row leaves it for later: the rows that it locks here, it need not wait for
  if careful then
    with mine as materialized (
      select r.id # r.token as mark
        from baton.record r where r.id = any (ids) and r.id # r.token = any (marks)
       order by r.id for update of r skip locked)
    select array_agg(i), array_agg(t) into busy_ids, busy_tokens
      from unnest(ids, tokens) a(i, t)
     where exists (select from baton.record r where r.id = a.i and r.token = a.t offset 0)
       and i # t <> all (array(select mark from mine));
    select array_agg(i), array_agg(l), array_agg(t), array_agg(i # t) into ids, lasts, tokens, marks
      from unnest(ids, lasts, tokens) a(i, l, t) where busy_ids is null or i <> all (busy_ids);
  end if;

  -- 1 of the records with nothing newer in sight, the gates that nobody holds
  with seen as materialized (
    select i, l, t from unnest(ids, lasts, tokens) a(i, l, t)
     where not exists (select from baton.event e where e.record = a.i and e.position > a.l offset 0))
  select array_agg(i), array_agg(l), array_agg(t) into free_ids, free_lasts, free_tokens
    from seen where pg_try_advisory_xact_lock(i);

  -- 2 drained, as seen by a snapshot newer than the gates, which keep writers out: the row goes. A parked one stays
  if free_ids is not null then
    select array_agg(i), array_agg(i # t) into free_ids, free_marks
      from unnest(free_ids, free_lasts, free_tokens) a(i, l, t)
     where not exists (select from baton.event e where e.record = a.i and e.position > a.l offset 0);
    with deleted as (
      delete from baton.record r
       where r.id = any (free_ids) and r.id # r.token = any (free_marks) and isfinite(r.ready_at)
      returning r.id, r.next_position)
    select array_agg(d.id), array_agg(d.next_position) into gone, gone_next from deleted d;
  end if;

  -- 3 the others stay due, at the back of the queue; never backwards, whatever an operator did
  -- meanwhile. A claim that saw no event backs off, 10 ms to 1 s, and costs nothing else
  if coalesce(cardinality(gone), 0) < cardinality(ids) then
    with updated as (
      update baton.record r
         set (next_position, locked_until, token, locked_by, claims, attempts, last_error, empties, ready_at) = (
               select greatest(r.next_position, a.l + 1), '-infinity'::timestamptz, null::bigint, null::bigint, 0,
                      case when a.l >= r.next_position then 0 else r.attempts end,
                      case when a.l >= r.next_position then null else r.last_error end,
                      case when a.l >= r.next_position then 0 else r.empties + 1 end,
                      case when r.ready_at = 'infinity' then r.ready_at
                           when a.l >= r.next_position then clock_timestamp()
                           else clock_timestamp() + least(1000, 10 * 2 ^ least(r.empties, 7)) * interval '1 ms' end
                 from (select lasts[array_position(marks, r.id # r.token)] as l offset 0) a)
       where r.id = any (ids) and r.id # r.token = any (marks)
      returning r.id, r.empties = 0 as moved)
    select array_agg(u.id), told || array_agg(u.id) filter (where u.moved) into kept, told from updated u;
  end if;

  -- the event after a skipped one is stored: the gap has been told
  if exists (select from baton.gap) then
    told := told || array(select g.i from unnest(gone, gone_next) g(i, p)
                            join unnest(ids, lasts) a(i, l) on a.i = g.i where a.l >= g.p);
    delete from baton.gap g using unnest(ids, lasts) a(i, l)
     where g.record = a.i and g.position < a.l and a.i = any (told);
  end if;

  if coalesce(cardinality(gone), 0) + coalesce(cardinality(kept), 0) < n then
    return query
      select i, t, true from unnest(busy_ids, busy_tokens) b(i, t)
      union all
      select i, t, false from unnest(ids, tokens) a(i, t) where i <> all (coalesce(gone, '{}') || coalesce(kept, '{}'));
  end if;
end $$;
-- +goose StatementEnd

-- Deletes published events that are older than keep, in the pages from first_page on, of which it
-- looks at `pages`; returns how many it deleted and whether it looked past the end of the table. Reading by
-- page costs the same whatever the backlog, and no index. An event at or past its record's
-- next_position is never deleted; a record without a row has published everything.
-- +goose StatementBegin
create function baton.retain(keep interval, first_page bigint, pages int, out deleted bigint, out wrapped boolean)
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'baton: retain needs READ COMMITTED' using errcode = 'invalid_transaction_state';
  end if;
  -- one instance at a time: the two-key space is apart from the gates
  if not pg_try_advisory_xact_lock(hashtext('baton'), hashtext('retain')) then
    deleted := -1;
    return;
  end if;
  delete from baton.event e
   where e.ctid >= format('(%s,0)', first_page)::tid
     and e.ctid < format('(%s,0)', first_page + pages)::tid
     and e.created_at < clock_timestamp() - keep
     and not exists (select from baton.record r where r.id = e.record and r.next_position <= e.position);
  get diagnostics deleted = row_count;
  wrapped := (first_page + pages) * current_setting('block_size')::bigint >= pg_relation_size('baton.event');
end $$;
-- +goose StatementEnd

revoke all on all functions in schema baton from public;
