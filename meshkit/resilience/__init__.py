"""Living with failure: retries under a budget, and admission under a cap."""
