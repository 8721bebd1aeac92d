-- +goose Up
set local lock_timeout = '2s';

-- What operators may do to one record. Each takes the record's gate, so that no writer is between,
-- gives the row a new token, which fences whoever holds a lease, and leaves an audit row.

-- The position from which a record without a row would go on.
-- +goose StatementBegin
create function baton.first_unwritten(record bigint) returns bigint
  language sql stable
return (select coalesce(max(e.position), 0) + 1 from baton.event e where e.record = first_unwritten.record);
-- +goose StatementEnd

-- +goose StatementBegin
create function baton.write_audit(action text, record_type text, record_key text, at_position bigint, reason text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(btrim(reason), '') = '' then
    raise exception 'baton: % needs a reason', action using errcode = 'invalid_parameter_value', column = 'reason';
  end if;
  insert into baton.audit (action, record_type, record_key, position, reason)
  values (action, record_type, record_key, at_position, reason);
end $$;
-- +goose StatementEnd

-- Stops a record where it is. New events wait behind.
-- +goose StatementBegin
create function baton.park(record_type text, record_key text, reason text) returns void
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare i bigint := baton.record_id(record_type, record_key);
begin
  perform pg_advisory_xact_lock(i);
  insert into baton.record (id, next_position, ready_at, last_error)
  values (i, baton.first_unwritten(i), 'infinity', 'parked by ' || session_user || ': ' || reason)
  on conflict (id) do update
    set ready_at = 'infinity', locked_until = '-infinity', token = null, locked_by = null, claims = 0,
        last_error = excluded.last_error;
  perform baton.write_audit('park', record_type, record_key, null, reason);
end $$;
-- +goose StatementEnd

-- Lets a parked or backing-off record go on at once, with its attempts forgotten. False: it has no work.
-- +goose StatementBegin
create function baton.unpark(record_type text, record_key text, reason text) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare
  i bigint := baton.record_id(record_type, record_key);
  found_row boolean;
begin
  perform pg_advisory_xact_lock(i);
  update baton.record r
     set ready_at = clock_timestamp(), locked_until = '-infinity', token = null, locked_by = null,
         attempts = 0, claims = 0, empties = 0, last_error = null
   where r.id = i;
  found_row := found;
  perform baton.write_audit('unpark', record_type, record_key, null, reason);
  return found_row;
end $$;
-- +goose StatementEnd

-- Lets all parked records go on whose next event is of a record type. Returns how many they were.
-- +goose StatementBegin
create function baton.unpark_all(of_record_type text, reason text) returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare n bigint;
begin
  update baton.record r
     set ready_at = clock_timestamp(), locked_until = '-infinity', token = null, locked_by = null,
         attempts = 0, claims = 0, empties = 0, last_error = null
   where r.ready_at = 'infinity'
     and exists (select from baton.event e
                  where e.record = r.id and e.position >= r.next_position and e.record_type = of_record_type);
  get diagnostics n = row_count;
  if n > 0 then
    perform baton.write_audit(format('unpark all: %s records', n), of_record_type, null, null, reason);
  end if;
  return n;
end $$;
-- +goose StatementEnd

-- Gives up the record's head event, on purpose: it is never published, and the record's next event
-- says so in the header baton_gap. Returns its position, or null when no event waits.
-- +goose StatementBegin
create function baton.skip(record_type text, record_key text, reason text) returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare
  i bigint := baton.record_id(record_type, record_key);
  head bigint;
begin
  perform pg_advisory_xact_lock(i);
  perform from baton.record r where r.id = i for update;
  select min(e.position) into head
    from baton.record r join baton.event e on e.record = r.id and e.position >= r.next_position
   where r.id = i;
  if head is null then
    return null;
  end if;
  update baton.record r
     set next_position = head + 1, ready_at = clock_timestamp(), locked_until = '-infinity',
         token = null, locked_by = null, attempts = 0, claims = 0, empties = 0, last_error = null
   where r.id = i;
  insert into baton.gap (record, position) values (i, head) on conflict do nothing;
  perform baton.write_audit('skip', record_type, record_key, head, reason);
  return head;
end $$;
-- +goose StatementEnd

-- Accepts that a topic is written with another partition count from now on. Returns the one before, or null.
-- +goose StatementBegin
create function baton.accept_topic(topic_name text, partition_count int, reason text) returns int
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare before int;
begin
  select t.partitions into before from baton.topic t where t.name = topic_name for update;
  insert into baton.topic as t (name, partitions) values (topic_name, partition_count)
  on conflict (name) do update set partitions = excluded.partitions, accepted_at = clock_timestamp();
  perform baton.write_audit(
    format('accept topic %s: %s to %s partitions', topic_name, coalesce(before::text, 'no'), partition_count),
    null, null, null, reason);
  return before;
end $$;
-- +goose StatementEnd

revoke all on all functions in schema baton from public;
