-- +goose Up
set local lock_timeout = '2s';

-- Written as the schema baton; Up puts the configured name in its place.

-- Numbers come out in the order of the calls: CACHE 1, or a session would hand out old ones.
create sequence baton.position as bigint cache 1;

-- One row for each event, inserted once, never changed, deleted by retention.
create table baton.event (
  record      bigint      not null, -- record_id(record_type, record_key)
  position    bigint      not null,
  bytes       int         not null, -- of payload: a claim adds them up without reading payloads
  created_at  timestamptz not null default clock_timestamp(),
  event_id    uuid        not null,
  record_type text        not null,
  record_key  text        not null,
  type        text        not null,
  headers     jsonb,                -- an object of strings, or null
  payload     bytea,                -- null is a tombstone
  primary key (record, position)
);
-- Is there an event past the sequence? BRIN answers for its 4 bytes a megabyte.
create index event_position on baton.event using brin (position) with (autosummarize = on);

-- One row for each record that has work; an idle record has none.
create table baton.record (
  id            bigint      primary key,
  next_position bigint      not null,                     -- everything below it needs no sending
  ready_at      timestamptz not null,                     -- due from then on; infinity: parked
  locked_until  timestamptz not null default '-infinity', -- leased until then
  token         bigint,                                   -- fence of the claim that holds it
  locked_by     bigint,                                   -- instance.id, for people
  attempts      int         not null default 0,           -- verdicts against the head event
  claims        int         not null default 0,           -- claims that ended without a verdict
  empties       int         not null default 0,           -- claims in a row that saw no event
  last_error    text
) with (
  fillfactor = 45,                                        -- a claim rewrites every row of a page: HOT needs the room
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 1000
);
-- The queue. locked_until and token stay out of every index, so that taking a lease is a HOT update.
create index record_ready on baton.record (ready_at);

-- Events that an operator skipped, until a later event of the record, which tells of it, is stored.
create table baton.gap (
  record   bigint not null,
  position bigint not null,
  primary key (record, position)
);

-- Running relays. A relay writes its row every second and deletes it when it ends.
create table baton.instance (
  id         bigint      primary key,
  name       text        not null,
  version    text        not null,
  pooler     text        not null, -- how it is connected: none or transaction
  started_at timestamptz not null default clock_timestamp(),
  seen_at    timestamptz not null default clock_timestamp()
);

-- The partition count with which a topic is written. Another count would move records between partitions.
create table baton.topic (
  name        text        primary key,
  partitions  int         not null,
  accepted_at timestamptz not null default clock_timestamp()
);

-- What operators did. Never deleted by Baton.
create table baton.audit (
  id          bigint      generated always as identity primary key,
  at          timestamptz not null default clock_timestamp(),
  actor       text        not null default session_user,
  action      text        not null,
  record_type text,
  record_key  text,
  position    bigint,
  reason      text        not null
);

-- One row: which schema this is, and where it may publish from and to.
create table baton.meta (
  only_row          boolean primary key default true check (only_row),
  schema_version    int     not null, -- of the newest migration applied
  relay_oldest      int     not null, -- the oldest relay, by the schema it was built for, that may still run
  system_identifier text,             -- of the database cluster: a restored copy has another one
  source            text,             -- BATON_SOURCE: a cloned staging database shall have another one
  kafka_cluster_id  text              -- of the Kafka that this outbox is published to
);
insert into baton.meta (schema_version, relay_oldest) values (4, 4);
