"""Harvester: product feeds into the commerce tables and into brain, resumable and exactly once."""
