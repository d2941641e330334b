"""The worker's tables in PostgreSQL, which replicas anywhere share; tenants are kept apart by the database."""
