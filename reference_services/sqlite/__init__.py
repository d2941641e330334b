"""SQLite files that the replicas of a service share: opened, migrated, and used without blocking an event loop."""

from reference_services.sqlite.database import Database as Database
from reference_services.sqlite.database import open_database as open_database
from reference_services.sqlite.file import Schema as Schema
from reference_services.sqlite.file import prepare as prepare
