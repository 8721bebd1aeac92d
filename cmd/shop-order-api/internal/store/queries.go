package store

import _ "embed"

//go:embed schema.sql
var schemaSQL string

// migrateLockSQL makes instances that start together create the table one after the other: IF NOT EXISTS
// alone lets two sessions collide on the catalogue's unique index. Transaction-scoped, so that a pooler in
// transaction mode passes it, and nothing is left behind. The number is arbitrary, and only this service's.
const migrateLockSQL = `SELECT pg_advisory_xact_lock(7305418826114290)`

// migratedSQL is asked first, since CREATE SCHEMA IF NOT EXISTS wants the right to create even when there is
// nothing to do, and the service's role need not have it.
const migratedSQL = `SELECT to_regclass('shop.orders') IS NOT NULL`

// readySQL reads the table, and asks whether the outbox is there: without it no write can succeed.
const readySQL = `
SELECT to_regnamespace('baton') IS NOT NULL, (SELECT count(*) FROM (SELECT FROM shop.orders LIMIT 1) o)`

// createSQL takes the next id. text before jsonb: a plain string is sent alike in every mode of the driver.
const createSQL = `
INSERT INTO shop.orders (customer, currency, items)
VALUES ($1, $2, $3::text::jsonb)
RETURNING id, version, customer, currency, items, created_at, updated_at`

// orderSQL reads one order by its primary key.
const orderSQL = `
SELECT id, version, customer, currency, items, created_at, updated_at
  FROM shop.orders
 WHERE id = $1`

// listSQL walks the primary key. An order that commits late may have an id below the last one seen.
const listSQL = `
SELECT id, version, customer, currency, items, created_at, updated_at
  FROM shop.orders
 WHERE id > $1
 ORDER BY id
 LIMIT $2`

// updateSQL changes the version that the client saw, and no other. It locks the row; under READ COMMITTED a
// second writer waits for the first, finds the version changed, and matches no row.
const updateSQL = `
UPDATE shop.orders
   SET version    = version + 1,
       customer   = $3,
       currency   = $4,
       items      = $5::text::jsonb,
       updated_at = clock_timestamp()
 WHERE id = $1
   AND version = $2
RETURNING id, version, customer, currency, items, created_at, updated_at`

// removeSQL returns the final state as its own event tells it: one version later, at this moment. Version 0
// means any.
const removeSQL = `
DELETE FROM shop.orders
 WHERE id = $1
   AND $2::bigint IN (0, version)
RETURNING id, version + 1, customer, currency, items, created_at, clock_timestamp()`

// versionSQL tells a conflict from an order that does not exist. Primary key lookup, no lock.
const versionSQL = `SELECT version FROM shop.orders WHERE id = $1`
