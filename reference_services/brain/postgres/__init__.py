"""Brain's rows in PostgreSQL: vectors by pgvector, words by a text index, tenants kept apart by the database."""
