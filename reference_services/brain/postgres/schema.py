"""The tables, as numbered migrations."""

from __future__ import annotations

from reference_services.postgres import Schema, own_rows

ROLE = "meshkit_brain"
"""Who reads and writes rows."""

OF_TENANTS = (
    "tenants",
    "cells",
    "products",
    "vectors",
    "words",
    "documents",
    "staged",
    "episodes",
    "facts",
    "traces",
)
"""Tables whose rows are a tenant's, as the first migration makes them."""

_TABLES = """
CREATE TABLE embedder (name text NOT NULL, dimensions integer NOT NULL);
-- `number` leads the tenant's words, so that its postings are its own. `length` is the number of its words in all.
CREATE TABLE tenants (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL UNIQUE CHECK (tenant <> ''),
    cells bigint NOT NULL DEFAULT 0,
    length bigint NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL
);
-- `metadata` holds fingerprints of the pairs that a filter may ask for.
CREATE TABLE cells (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    kind integer NOT NULL,
    etag text NOT NULL,
    spoken text NOT NULL,
    source text COLLATE "C" NOT NULL,
    document_id text COLLATE "C",
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    text_bytes bigint NOT NULL,
    metadata text[] COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    version bigint NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX cells_by_kind ON cells (tenant, kind, id, text_bytes);
CREATE INDEX cells_by_document ON cells (tenant, document_id) WHERE document_id IS NOT NULL;
CREATE INDEX cells_by_source ON cells (tenant, source);
CREATE TABLE products (
    cell bigint PRIMARY KEY REFERENCES cells ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    price_minor bigint,
    currency text COLLATE "C" NOT NULL,
    brand text COLLATE "C" NOT NULL,
    category text COLLATE "C" NOT NULL,
    availability integer NOT NULL
);
CREATE INDEX products_by_sku ON products (tenant, sku);
-- The length of the vectors, and the index of their nearness, come with the embedder.
CREATE TABLE vectors (
    cell bigint PRIMARY KEY REFERENCES cells ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    vector vector NOT NULL
);
CREATE INDEX vectors_by_tenant ON vectors (tenant);
CREATE TABLE words (
    cell bigint PRIMARY KEY REFERENCES cells ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    length integer NOT NULL,
    lexemes tsvector NOT NULL
);
CREATE INDEX words_by_lexeme ON words USING gin (lexemes) WITH (fastupdate = off);
CREATE TABLE documents (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    sha256 text NOT NULL,
    fingerprint text NOT NULL,
    cells integer NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE TABLE staged (
    tenant text COLLATE "C" NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    spoken text COLLATE "C" NOT NULL,
    vector bytea NOT NULL,
    staged_at bigint NOT NULL,
    PRIMARY KEY (tenant, document_id, spoken)
);
CREATE INDEX staged_by_time ON staged (tenant, staged_at);
CREATE TABLE episodes (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    occurred_at bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX episodes_by_time ON episodes (tenant, occurred_at, id);
CREATE INDEX episodes_by_session ON episodes (tenant, session_id, occurred_at, id);
CREATE TABLE facts (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    predicate text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX facts_by_subject ON facts (tenant, subject, id);
CREATE TABLE traces (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    started_at bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX traces_by_time ON traces (tenant, started_at, id);
CREATE INDEX traces_by_session ON traces (tenant, session_id, started_at, id);
"""

_FUNCTIONS = f"""
GRANT SELECT ON embedder TO {ROLE};
-- The owner, who looks whether there are vectors at all, and for whom the functions below read.
CREATE POLICY owner ON vectors FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY owner ON words FOR SELECT TO CURRENT_USER USING (true);
-- Under a row policy PostgreSQL does not look up words in an index, because an operator that is no equality might tell
-- of rows that are not let through. So these look them up as the owner, among the rows of the transaction's tenant.
CREATE FUNCTION frequencies(terms tsquery[], most bigint) RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(
        (
            SELECT count(*) FROM (
                SELECT FROM brain.words AS w
                WHERE w.lexemes @@ t.term AND w.tenant = current_setting('meshkit.tenant', true) LIMIT most
            ) AS found
        )
        ORDER BY t.place
    )
    FROM unnest(terms) WITH ORDINALITY AS t (term, place)
$$;
-- BM25 with k1 = 0.5 and b = 0.75, but for the word's frequency, in whose place is `ts_rank`, which grows with it.
CREATE FUNCTION ranked(candidates tsquery, terms tsquery[], weights float8[], mean float8)
RETURNS TABLE (cell bigint, score float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT w.cell, (
        SELECT sum(t.weight * r.rank / (r.rank + 0.5 * (0.25 + 0.75 * w.length / mean)))
        FROM unnest(terms, weights) AS t (term, weight),
            LATERAL (SELECT ts_rank('{{0.5, 0.5, 0.5, 1}}', w.lexemes, t.term)::float8 AS rank OFFSET 0) AS r
        WHERE r.rank > 0
    )
    FROM brain.words AS w
    WHERE w.lexemes @@ candidates AND w.tenant = current_setting('meshkit.tenant', true)
$$;
REVOKE ALL ON FUNCTION frequencies, ranked FROM PUBLIC;
GRANT EXECUTE ON FUNCTION frequencies, ranked TO {ROLE};
"""

_TRACES = f"""
CREATE INDEX traces_by_age ON traces (started_at);
-- The owner, for whom the function below deletes, whoever's a trace is.
CREATE POLICY owner ON traces TO CURRENT_USER USING (true);
CREATE FUNCTION forget_traces(before bigint, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM brain.traces WHERE (tenant, id) IN (
            SELECT tenant, id FROM brain.traces
            WHERE started_at < before ORDER BY started_at LIMIT most FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION forget_traces FROM PUBLIC;
GRANT EXECUTE ON FUNCTION forget_traces TO {ROLE};
"""

BRAIN = Schema(
    name="brain",
    setting="BRAIN_DATABASE_URL",
    role=ROLE,
    migrations=(_TABLES + own_rows(ROLE, *OF_TENANTS) + _FUNCTIONS, _TRACES),
    extensions={"vector": (0, 8)},
)
"""What brain keeps in PostgreSQL."""
