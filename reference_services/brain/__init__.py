"""Brain: knowledge (cells, documents, products) and memory (episodes, facts, traces) of a tenant."""
