"""A schema in PostgreSQL that the replicas of a service share: migrated, and used by one tenant at a time."""

from reference_services.postgres.database import NOBODY as NOBODY
from reference_services.postgres.database import Connection as Connection
from reference_services.postgres.database import Database as Database
from reference_services.postgres.database import Overtaken as Overtaken
from reference_services.postgres.database import open_database as open_database
from reference_services.postgres.database import rows as rows
from reference_services.postgres.faults import is_lost as is_lost
from reference_services.postgres.faults import unusable as unusable
from reference_services.postgres.migrations import locked as locked
from reference_services.postgres.migrations import migrated as migrated
from reference_services.postgres.schema import END_WITH_CLIENT as END_WITH_CLIENT
from reference_services.postgres.schema import Schema as Schema
from reference_services.postgres.schema import Target as Target
from reference_services.postgres.schema import own_rows as own_rows
