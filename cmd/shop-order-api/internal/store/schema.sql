-- The service's own table. Identity values are never used again, so an order's record key is its own for ever.
CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.orders (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version    bigint      NOT NULL DEFAULT 1,
    customer   text        NOT NULL,
    currency   text        NOT NULL,
    items      jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
