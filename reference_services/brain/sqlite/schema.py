"""The tables, as numbered migrations."""

from __future__ import annotations

from reference_services.sqlite import Schema

_FIRST = """
CREATE TABLE embedder (name TEXT NOT NULL, dimensions INTEGER NOT NULL);
-- A tenant's revision grows with each change of its cells; processes that hold its vectors follow it.
-- Removals up to revision `forgotten` are listed no more.
CREATE TABLE tenants (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0,
    cells INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL
);
CREATE TABLE cells (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    etag TEXT NOT NULL,
    spoken TEXT NOT NULL,
    source TEXT NOT NULL,
    document_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX cells_by_kind ON cells (tenant, kind, id, text_bytes);
CREATE INDEX cells_by_document ON cells (tenant, document_id) WHERE document_id IS NOT NULL;
CREATE INDEX cells_by_source ON cells (tenant, source);
CREATE TABLE products (
    cell INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    sku TEXT NOT NULL,
    price_minor INTEGER,
    currency TEXT NOT NULL,
    brand TEXT NOT NULL,
    category TEXT NOT NULL,
    availability INTEGER NOT NULL
);
CREATE INDEX products_by_sku ON products (tenant, sku);
CREATE TABLE vectors (
    cell INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    revision INTEGER NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX vectors_by_revision ON vectors (tenant, revision);
CREATE TABLE removed (tenant TEXT NOT NULL, revision INTEGER NOT NULL, cell INTEGER NOT NULL);
CREATE INDEX removed_by_revision ON removed (tenant, revision);
-- Folded words, each led by the tenant's number: a tenant's postings and word frequencies are its own.
CREATE VIRTUAL TABLE words USING fts5(heading, text, tokenize = 'unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, 'row');
CREATE TABLE documents (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    cells INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE TABLE staged (
    tenant TEXT NOT NULL,
    document_id TEXT NOT NULL,
    spoken TEXT NOT NULL,
    vector BLOB NOT NULL,
    staged_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, document_id, spoken)
);
CREATE INDEX staged_by_time ON staged (staged_at);
CREATE TABLE episodes (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    occurred_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX episodes_by_time ON episodes (tenant, occurred_at, id);
CREATE INDEX episodes_by_session ON episodes (tenant, session_id, occurred_at, id);
CREATE TABLE facts (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    predicate TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX facts_by_subject ON facts (tenant, subject, id);
CREATE TABLE traces (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX traces_by_time ON traces (tenant, started_at, id);
CREATE INDEX traces_by_session ON traces (tenant, session_id, started_at, id);
"""

_VERSIONS = "ALTER TABLE cells ADD COLUMN version INTEGER NOT NULL DEFAULT 0;"

_TRACES = "CREATE INDEX traces_by_age ON traces (started_at);"

BRAIN = Schema(name="brain", setting="BRAIN_DATABASE_URL", migrations=(_FIRST, _VERSIONS, _TRACES))
"""What brain's file holds."""
