"""What Shield keeps, in a schema of PostgreSQL that its replicas share."""
