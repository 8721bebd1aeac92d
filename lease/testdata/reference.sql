-- The shape that was stormed before there was a product: no roles, limits, audit, headers. Benchmarks compare with it.
drop schema if exists baton cascade; create schema baton;
create sequence baton.position;                       -- CACHE 1: numbers come out in the order of the calls
create function baton.record_id(type text, key text) returns bigint immutable parallel safe language sql as
$$ select hashtextextended(key, hashtextextended(type, 8316293)) $$;

create table baton.event(
  record bigint not null, position bigint not null,
  record_type text not null, record_key text not null, type text not null, payload bytea, bytes int not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  primary key (record, position));
create index event_position on baton.event using brin (position);

create table baton.record(                            -- a row only while there is work
  id bigint primary key, next_position bigint not null, ready_at timestamptz not null,
  locked_until timestamptz not null default '-infinity', token bigint, claims int not null default 0) with (fillfactor=45);
create index record_ready on baton.record(ready_at);

create function baton.add(types text[], keys text[], kinds text[], payloads bytea[]) returns bigint[] language plpgsql as $$
declare recs bigint[]; poss bigint[]; r bigint; p bigint;
begin
  -- 1 the gates, in the order of the lock key, held to the end of the transaction
  perform pg_advisory_xact_lock(g) from (select distinct baton.record_id(t,k) g from unnest(types,keys) u(t,k) order by 1) s;
  -- 2 numbers and events: a sequence answers with the present, no snapshot is read
  with n as materialized (
    select baton.record_id(t,k) r, nextval('baton.position') p, t, k, y, b from unnest(types,keys,kinds,payloads) with ordinality u(t,k,y,b,o) order by o),
  e as (insert into baton.event(record,position,record_type,record_key,type,payload,bytes) select n.r,n.p,t,k,y,b,coalesce(octet_length(b),0) from n)
  select array_agg(n.r order by n.p), array_agg(n.p order by n.p) into recs, poss from n;
  -- 3 the records have work. A unique index answers with the present too
  if current_setting('transaction_isolation') = 'read committed' then
    insert into baton.record(id,next_position,ready_at)
    select i, min(q), clock_timestamp() from unnest(recs,poss) u(i,q) group by i order by i on conflict (id) do nothing;
  else -- here ON CONFLICT would raise 40001 whenever a relay has touched the row since our snapshot
    for r, p in select i, min(q) from unnest(recs,poss) u(i,q) group by i order by i loop
      begin
        insert into baton.record(id,next_position,ready_at) values (r, p, clock_timestamp());
      exception when unique_violation then null;
      end;
    end loop;
  end if;
  return poss;
end $$;

create view baton.outbox as select position, record_type as aggregatetype, record_key as aggregateid, type, convert_from(payload,'UTF8') as payload from baton.event;
create function baton.insert_outbox() returns trigger language plpgsql as $$
begin
  new.position := (baton.add(array[new.aggregatetype], array[new.aggregateid], array[new.type], array[convert_to(new.payload,'UTF8')]))[1];
  return new;
end $$;
create trigger insert_outbox instead of insert on baton.outbox for each row execute function baton.insert_outbox();

create function baton.ack(ids bigint[], lasts bigint[], tok bigint) returns int language plpgsql as $$
declare fi bigint[]; fl bigint[]; gone int; kept int;
begin
  if current_setting('transaction_isolation') <> 'read committed' then raise 'ack needs READ COMMITTED'; end if;
  -- 1 of the records with nothing newer in sight, the gates that nobody holds
  with seen as materialized (select i, l from unnest(ids,lasts) u(i,l)
                              where not exists (select from baton.event e where e.record=i and e.position > l))
  select array_agg(i), array_agg(l) into fi, fl from seen where pg_try_advisory_xact_lock(i);
  -- 2 drained, seen by a snapshot newer than the gates: gone; a parked row stays
  delete from baton.record r using unnest(fi,fl) a(i,l) where r.id=a.i and r.token=tok and r.ready_at < 'infinity'
     and not exists (select from baton.event e where e.record=a.i and e.position > a.l);
  get diagnostics gone = row_count;
  if gone = cardinality(ids) then return gone; end if;
  -- 3 the rest stay due, at the back of the queue; never backwards, whatever an operator did meanwhile
  update baton.record r set next_position=greatest(r.next_position, a.l+1), locked_until='-infinity', token=null, claims=0,
         ready_at = case when r.ready_at < 'infinity' then clock_timestamp() else r.ready_at end
    from unnest(ids,lasts) a(i,l) where r.id=a.i and r.token=tok;
  get diagnostics kept = row_count;
  return gone + kept;
end $$;

-- The claim, run by the relay: READ COMMITTED, its own short transaction, no payloads.
--   with due as materialized (
--          select id from baton.record where ready_at <= (select clock_timestamp()) and locked_until <= (select clock_timestamp())
--           order by ready_at limit $1 for update skip locked),
--        taken as (update baton.record r set locked_until = clock_timestamp() + $3, token = $2, claims = claims + 1
--                    from due where r.id = due.id returning r.id, r.next_position)
--   select taken.id, e.first, e.last, e.bytes from taken left join lateral (
--          select min(position) as first, max(position) as last, sum(bytes) as bytes from
--            (select position, bytes from baton.event where record = taken.id and position >= taken.next_position
--              order by position limit $4) f) e on true
-- Then, after its commit and outside any lock, in pieces bounded by bytes:
--   select … from unnest($1::bigint[], $2::bigint[], $3::bigint[]) c(id, first, last)
--     join baton.event e on e.record = c.id and e.position between c.first and c.last
