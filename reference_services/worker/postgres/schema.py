"""The tables, as numbered migrations: the ledger in the schema `worker`, what harvests bring in `commerce`."""

from __future__ import annotations

from collections.abc import Sequence

from reference_services.postgres import Schema

ROLE = "meshkit_worker"
"""Who reads and writes rows."""

ENGINE_SCHEMA = "worker_dbos"
"""Where DBOS has its tables, which it makes itself. They name workflows, and hold what their steps returned."""

_LEDGER = f"""
CREATE TABLE workflows (
    tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
    id text COLLATE "C" NOT NULL,
    principal text NOT NULL,
    name text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    parent_id text COLLATE "C" NOT NULL,
    state integer NOT NULL,
    arguments text NOT NULL,
    executor text COLLATE "C" NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    message text NOT NULL DEFAULT '',
    result text,
    failure text,
    created_at float8 NOT NULL,
    started_at float8 NOT NULL DEFAULT 0,
    updated_at float8 NOT NULL,
    finished_at float8 NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 70);
CREATE INDEX workflows_by_time ON workflows (tenant, parent_id, created_at DESC, id DESC);
CREATE INDEX workflows_unfinished ON workflows (executor, created_at) WHERE state < 3;
CREATE TABLE executors (
    id text COLLATE "C" PRIMARY KEY,
    beat bigint NOT NULL,
    state text NOT NULL,
    claimed_by text NOT NULL DEFAULT ''
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON executors TO {ROLE};
-- Two things that the engine does for all tenants, as the owner: all else is done for one.
CREATE POLICY owner ON workflows TO CURRENT_USER USING (true);
CREATE FUNCTION forgotten(before float8) RETURNS TABLE (tenant text, id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.tenant, w.id FROM worker.workflows AS w
    WHERE w.state = 1 AND w.executor = '' AND w.created_at < before AND w.state < 3 LIMIT 100
$$;
CREATE FUNCTION queue_again(dead text, at float8) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE worker.workflows SET state = 1, updated_at = at WHERE executor = dead AND state = 2 AND state < 3
$$;
REVOKE ALL ON FUNCTION forgotten, queue_again FROM PUBLIC;
GRANT EXECUTE ON FUNCTION forgotten, queue_again TO {ROLE};
CREATE SCHEMA {ENGINE_SCHEMA} AUTHORIZATION {ROLE};
"""

_HISTORY = f"""
CREATE INDEX workflows_ended ON workflows (finished_at) WHERE parent_id = '' AND state >= 3;
CREATE TABLE turns (chore text COLLATE "C" PRIMARY KEY, next_at float8 NOT NULL);
GRANT SELECT, INSERT, UPDATE ON turns TO {ROLE};
ALTER TABLE executors ADD COLUMN buried_at float8 NOT NULL DEFAULT 0;
-- As the owner, for all tenants: ids and names, and nothing else. The id of what a workflow started is its own, with
-- `-` and a number behind it; `.` is the next character.
CREATE FUNCTION ended(before float8, spared text[], most integer)
RETURNS TABLE (tenant text, id text, name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH roots AS (
        SELECT w.tenant, w.id FROM worker.workflows AS w
        WHERE w.parent_id = '' AND w.state >= 3 AND w.finished_at < before AND w.id <> ALL (spared) AND NOT EXISTS (
            SELECT FROM worker.workflows AS c WHERE c.tenant = w.tenant AND c.id > w.id || '-' AND c.id < w.id || '.'
            AND (c.state < 3 OR c.finished_at >= before))
        ORDER BY w.finished_at LIMIT most
    )
    SELECT f.tenant, f.id, f.name FROM roots AS r JOIN worker.workflows AS f
    ON f.tenant = r.tenant AND (f.id = r.id OR (f.id > r.id || '-' AND f.id < r.id || '.'))
    ORDER BY f.tenant, f.id DESC LIMIT most
$$;
REVOKE ALL ON FUNCTION ended FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ended TO {ROLE};
"""

_COMMERCE = """
CREATE TABLE runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
    workflow_id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    feed text NOT NULL,
    size bigint NOT NULL,
    modified_ns bigint NOT NULL,
    layout text NOT NULL,
    currency text NOT NULL,
    batches integer NOT NULL,
    rows bigint NOT NULL,
    started_at float8 NOT NULL,
    finished_at float8 NOT NULL DEFAULT 0,
    accepted bigint,
    duplicates bigint,
    rejected bigint,
    reasons text,
    UNIQUE (tenant, workflow_id)
);
CREATE TABLE batches (
    tenant text COLLATE "C" NOT NULL,
    run bigint NOT NULL REFERENCES runs,
    number integer NOT NULL,
    start bigint NOT NULL,
    "end" bigint NOT NULL,
    line bigint NOT NULL,
    rows integer NOT NULL,
    digest text NOT NULL,
    done_at float8,
    done_by text,
    PRIMARY KEY (run, number)
) WITH (fillfactor = 50);
CREATE TABLE observations (
    tenant text COLLATE "C" NOT NULL,
    run bigint NOT NULL,
    sku text COLLATE "C" NOT NULL,
    line bigint NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    PRIMARY KEY (run, sku, line)
);
CREATE TABLE products (
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    name text NOT NULL,
    brand text NOT NULL,
    category text NOT NULL,
    description text NOT NULL,
    gtin text NOT NULL,
    url text NOT NULL,
    image_url text NOT NULL,
    run bigint NOT NULL,
    line bigint NOT NULL,
    PRIMARY KEY (tenant, source, sku)
);
CREATE TABLE offers (
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    availability integer NOT NULL,
    run bigint NOT NULL,
    line bigint NOT NULL,
    PRIMARY KEY (tenant, source, sku)
);
CREATE TABLE price_history (
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    run bigint NOT NULL,
    line bigint NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    PRIMARY KEY (tenant, source, sku, run, line)
);
CREATE TABLE rejects (
    tenant text COLLATE "C" NOT NULL,
    run bigint NOT NULL,
    line bigint NOT NULL,
    reason text NOT NULL,
    field text NOT NULL,
    excerpt text NOT NULL,
    PRIMARY KEY (run, line)
);
"""

OF_TENANTS = {
    "worker": ("workflows",),
    "commerce": ("runs", "batches", "observations", "products", "offers", "price_history", "rejects"),
}
"""Tables whose rows are a tenant's, by schema, as the first migrations make them."""


def _kept_apart(tables: Sequence[str]) -> str:
    return "".join(
        f"""
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON {table} TO {ROLE} USING (tenant = current_setting('meshkit.tenant', true));
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLE};
"""
        for table in tables
    )


WORKER = Schema(
    name="worker",
    setting="WORKER_DATABASE_URL",
    role=ROLE,
    migrations=(_LEDGER + _kept_apart(OF_TENANTS["worker"]), _HISTORY),
)
"""The ledger."""

COMMERCE = Schema(
    name="commerce",
    setting="WORKER_DATABASE_URL",
    role=ROLE,
    migrations=(_COMMERCE + _kept_apart(OF_TENANTS["commerce"]),),
)
"""What harvests bring."""
