-- +goose Up
set local lock_timeout = '2s';

-- The record's id and its gate's key. Frozen: two versions that differ would stop excluding each
-- other. Salted by the schema, so that two outboxes in one database do not share gates.
-- +goose StatementBegin
create function baton.record_id(record_type text, record_key text) returns bigint
  language sql immutable strict parallel safe
return hashtextextended(record_key collate "C",
         hashtextextended(record_type collate "C", hashtextextended('baton', 8316293)));
-- +goose StatementEnd

-- What is wrong with an event's headers, or null.
-- +goose StatementBegin
create function baton.headers_problem(headers jsonb) returns text
  language plpgsql immutable strict parallel safe
  set search_path = pg_catalog, pg_temp as $$
declare bad text;
begin
  if jsonb_typeof(headers) <> 'object' then
    return 'are a JSON ' || jsonb_typeof(headers) || ', they must be an object of strings';
  end if;
  if octet_length(headers::text) > 16384 then
    return 'are ' || octet_length(headers::text) || ' bytes, at most 16384 are allowed';
  end if;
  if (select count(*) from jsonb_object_keys(headers)) > 64 then
    return 'are ' || (select count(*) from jsonb_object_keys(headers)) || ', at most 64 are allowed';
  end if;
  select key into bad from jsonb_each(headers)
   where key = '' or key ~* '^(ce_|baton_)' or jsonb_typeof(value) <> 'string' limit 1;
  if found then
    return 'have "' || bad || '": a name must not be empty or begin with ce_ or baton_, and its value must be a string';
  end if;
  return null;
end $$;
-- +goose StatementEnd

-- What is wrong with an event as "field: reason", or null. The limits are those of the Go package outbox.
-- It runs for every event: no bounded repetition in the pattern (5 µs), and the numbers are cast by
-- name, since text || int is only stable and would keep this from being inlined (3 µs).
-- +goose StatementBegin
create function baton.event_problem(record_type text, record_key text, type text, payload bytea, headers jsonb,
                                    payload_bytes_max int) returns text
  language sql immutable parallel safe
return case
  when record_type is null or octet_length(record_type) not between 1 and 200 or record_type ~ '[^A-Za-z0-9._-]' then
    'record type: must have 1 to 200 letters, digits, ".", "_" or "-"'
  when record_key is null or octet_length(record_key) not between 1 and 1024 then
    'record key: is ' || coalesce(octet_length(record_key), 0)::text || ' bytes, 1 to 1024 are allowed'
  when type is null or octet_length(type) not between 1 and 200 then
    'type: is ' || coalesce(octet_length(type), 0)::text || ' bytes, 1 to 200 are allowed'
  when octet_length(payload) > payload_bytes_max then
    'payload: is ' || octet_length(payload)::text || ' bytes, at most ' || payload_bytes_max::text ||
    ' are allowed (baton_limits.payload_bytes)'
  when headers is not null then 'headers: ' || baton.headers_problem(headers)
end;
-- +goose StatementEnd

-- Takes the gates, in the order of their keys, so that two transactions never wait for each other
-- because of one call. They are held to the end of the transaction. The shared lock table is the
-- application's too, so a transaction may hold baton_limits.gates of them (256), counted exactly: a
-- setting that is local to the transaction, and to the savepoint, remembers which ones.
-- +goose StatementBegin
create function baton.take_gates(gates bigint[]) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp as $$
declare
  held bigint[] := nullif(current_setting('baton_gates.held', true), '');
  gates_max int := coalesce(nullif(current_setting('baton_limits.gates', true), ''), '256');
begin
  if held is null then
    held := gates;
  elsif held @> gates then
    return;
  else
    select array_agg(distinct g) into held from unnest(held || gates) g;
  end if;
  if cardinality(held) > gates_max then
    raise exception 'baton: this transaction would write % records, at most % are allowed', cardinality(held), gates_max
      using errcode = 'program_limit_exceeded', constraint = 'gates',
            hint = 'Write fewer records in one transaction, or raise the setting baton_limits.gates '
                   'together with max_locks_per_transaction.';
  end if;
  perform set_config('baton_gates.held', held::text, true);
  perform pg_advisory_xact_lock(g) from unnest(gates) g;
end $$;
-- +goose StatementEnd

-- Writes events and returns their positions, in the order of the arrays. It reads no snapshot: a
-- sequence and a unique index always answer with the present, so it is right under every isolation
-- level, with savepoints, and when the application's own locks do not serialise the writers.
-- Call it once in a transaction, last, if other writers take several records.
-- +goose StatementBegin
create function baton.add(record_types text[], record_keys text[], types text[], payloads bytea[],
                          headers jsonb[], event_ids uuid[]) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
declare
  n int := coalesce(cardinality(record_types), 0);
  payload_bytes_max int := coalesce(nullif(current_setting('baton_limits.payload_bytes', true), ''), '1000000');
  bad bigint;
  problem text;
  gates bigint[];
  records bigint[];
  positions bigint[];
  r bigint;
  p bigint;
begin
  if coalesce(cardinality(record_keys), 0) <> n or coalesce(cardinality(types), 0) <> n
     or coalesce(cardinality(payloads), 0) <> n or cardinality(headers) <> n or cardinality(event_ids) <> n then
    raise exception 'baton: the arrays differ in length: % record types, % record keys, % types, % payloads',
      n, cardinality(record_keys), cardinality(types), cardinality(payloads) using errcode = 'invalid_parameter_value';
  end if;
  if n = 0 then
    return '{}';
  end if;

  -- 1 the gates, before anything is numbered; unless an event is bad
  select array_agg(distinct baton.record_id(t, k) order by baton.record_id(t, k)),
         min(o) filter (where baton.event_problem(t, k, y, b, h, payload_bytes_max) is not null)
    into gates, bad
    from unnest(record_types, record_keys, types, payloads, headers) with ordinality u(t, k, y, b, h, o);
  if bad is not null then
    problem := baton.event_problem(record_types[bad], record_keys[bad], types[bad], payloads[bad], headers[bad],
                                   payload_bytes_max);
    raise exception 'baton: event %: % %',
        bad - 1, split_part(problem, ': ', 1), substr(problem, strpos(problem, ': ') + 2)
      using errcode = 'invalid_parameter_value', column = split_part(problem, ': ', 1), detail = (bad - 1)::text;
  end if;
  perform baton.take_gates(gates);

  -- 2 numbers and events
  with numbered as materialized (
    select baton.record_id(t, k) as r, nextval('baton.position') as p, t, k, y, b, h, i
      from unnest(record_types, record_keys, types, payloads, headers, event_ids) with ordinality u(t, k, y, b, h, i, o)
     order by o),
  inserted as (
    insert into baton.event (record, position, bytes, event_id, record_type, record_key, type, headers, payload)
    select n.r, n.p, coalesce(octet_length(b), 0), coalesce(i, gen_random_uuid()), t, k, y, h, b from numbered n)
  select array_agg(n.r order by n.p), array_agg(n.p order by n.p) into records, positions from numbered n;

  -- 3 the records have work
  if current_setting('transaction_isolation') = 'read committed' then
    insert into baton.record (id, next_position, ready_at)
    select i, min(q), clock_timestamp() from unnest(records, positions) u(i, q) group by i order by i
    on conflict (id) do nothing;
  else -- here ON CONFLICT would raise 40001 whenever a relay has touched the row since our snapshot
    for r, p in select i, min(q) from unnest(records, positions) u(i, q) group by i order by i loop
      begin
        insert into baton.record (id, next_position, ready_at) values (r, p, clock_timestamp());
      exception when unique_violation then null;
      end;
    end loop;
  end if;
  return positions;
end $$;
-- +goose StatementEnd

-- The same without headers and ids. No defaults above: a call for one event with its headers as a plain
-- literal, which could be jsonb or jsonb[], would be ambiguous.
-- +goose StatementBegin
create function baton.add(record_types text[], record_keys text[], types text[], payloads bytea[])
  returns bigint[] language sql volatile
return baton.add(record_types, record_keys, types, payloads, null::jsonb[], null::uuid[]);
-- +goose StatementEnd

-- One event from SQL; payload as text, jsonb or bytea.
-- +goose StatementBegin
create function baton.add(record_type text, record_key text, type text, payload text, headers jsonb default null)
  returns bigint language sql volatile
return (baton.add(array[record_type], array[record_key], array[type], array[convert_to(payload, 'UTF8')],
                  array[headers], null))[1];
-- +goose StatementEnd
-- +goose StatementBegin
create function baton.add(record_type text, record_key text, type text, payload jsonb, headers jsonb default null)
  returns bigint language sql volatile
return (baton.add(array[record_type], array[record_key], array[type], array[convert_to(payload::text, 'UTF8')],
                  array[headers], null))[1];
-- +goose StatementEnd
-- +goose StatementBegin
create function baton.add(record_type text, record_key text, type text, payload bytea, headers jsonb default null)
  returns bigint language sql volatile
return (baton.add(array[record_type], array[record_key], array[type], array[payload], array[headers], null))[1];
-- +goose StatementEnd

-- A payload as text, or null where it is not UTF-8.
-- +goose StatementBegin
create function baton.payload_text(payload bytea) returns text
  language plpgsql immutable strict parallel safe
  set search_path = pg_catalog, pg_temp as $$
begin
  return convert_from(payload, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
  return null;
end $$;
-- +goose StatementEnd

-- The outbox for plain INSERT from any language, with the columns of Debezium's outbox table.
create view baton.outbox as
  select event_id as id, record_type as aggregatetype, record_key as aggregateid, type,
         baton.payload_text(payload) as payload, payload as payload_bytes, headers, position, created_at
    from baton.event;

-- +goose StatementBegin
create function baton.insert_outbox() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp as $$
begin
  if new.payload is not null and new.payload_bytes is not null then
    raise exception 'baton: payload and payload_bytes are both given, at most one of them may be'
      using errcode = 'invalid_parameter_value', column = 'payload';
  end if;
  new.id := coalesce(new.id, gen_random_uuid());
  new.position := (baton.add(array[new.aggregatetype], array[new.aggregateid], array[new.type],
    array[coalesce(new.payload_bytes, convert_to(new.payload, 'UTF8'))], array[new.headers], array[new.id]))[1];
  new.created_at := clock_timestamp();
  return new;
end $$;
-- +goose StatementEnd
create trigger insert_outbox instead of insert on baton.outbox for each row execute function baton.insert_outbox();

-- PostgreSQL would pass an UPDATE of so simple a view on to the table.
-- +goose StatementBegin
create function baton.refuse_update() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'baton: an event is never changed once it is written'
    using errcode = 'object_not_in_prerequisite_state';
end $$;
-- +goose StatementEnd
create trigger refuse_update instead of update on baton.outbox for each row execute function baton.refuse_update();

-- Debezium's users delete their row right after they inserted it: the event is in the log of the
-- database by then. Here it would be lost, so a DELETE changes nothing, and reads nothing.
create rule delete_outbox as on delete to baton.outbox do instead nothing;

revoke all on all functions in schema baton from public;
