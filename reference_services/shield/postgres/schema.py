"""The tables, as numbered migrations. None has tenants: what is in them is Shield's alone."""

from __future__ import annotations

from reference_services.postgres import Schema

ROLE = "meshkit_shield"
"""Who reads and writes rows."""

_TABLES = """
CREATE TABLE project (project_id text COLLATE "C" PRIMARY KEY, facts text NOT NULL);
CREATE TABLE project_key (
    project_id text COLLATE "C" NOT NULL,
    kid text COLLATE "C" NOT NULL,
    sealed bytea NOT NULL,
    retired boolean NOT NULL,
    PRIMARY KEY (project_id, kid)
);
CREATE TABLE signing_key (
    kid text COLLATE "C" PRIMARY KEY,
    public bytea NOT NULL,
    sealed bytea NOT NULL,
    signs_from double precision NOT NULL,
    verifies_until double precision
);
CREATE TABLE revocation (
    revision bigint PRIMARY KEY,
    token_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    moment double precision NOT NULL,
    UNIQUE (token_id, project_id)
);
CREATE INDEX revocation_by_moment ON revocation (moment);
CREATE TABLE revision (
    log_id text NOT NULL,
    revocations bigint NOT NULL,
    keys bigint NOT NULL,
    projects bigint NOT NULL
);
CREATE TABLE audit (
    number bigint PRIMARY KEY,
    at double precision NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    details text NOT NULL,
    mac bytea NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
CREATE TABLE audit_mark (place text PRIMARY KEY, number bigint NOT NULL, mac bytea NOT NULL, seal bytea NOT NULL);
"""

_RIGHTS = f"""
GRANT SELECT, INSERT, UPDATE, DELETE ON project, project_key, signing_key, revocation TO {ROLE};
GRANT SELECT, UPDATE ON revision, audit_mark TO {ROLE};
GRANT SELECT, INSERT, DELETE ON audit TO {ROLE};
"""

SHIELD = Schema(name="shield", setting="SHIELD_DATABASE_URL", role=ROLE, migrations=(_TABLES + _RIGHTS,))
"""What Shield keeps in PostgreSQL."""
