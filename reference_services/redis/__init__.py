"""A Redis that the replicas of a service share: scripts that run whole or not at all, and what is wrong, told."""

from reference_services.redis.database import Database as Database
from reference_services.redis.database import Script as Script
from reference_services.redis.database import open_database as open_database
