"""The worker's tables in SQLite files, which the replicas of one machine share."""
