"""What `meshkit doctor` says of a database in PostgreSQL."""

from meshkit.cli.doctor.databases import look_at_databases
from meshkit.cli.doctor.findings import Case, Named
from reference_services.brain.config import BrainConfig


async def test_a_database_is_told_with_its_version_its_extension_and_its_schemas(database_url: str) -> None:
    config = BrainConfig(brain_database_url=database_url)
    found = await look_at_databases(Case(config, [Named("brain", config)]))
    assert {finding.grade.value for finding in found} == {"ok"}, found
    told = "\n".join(finding.what for finding in found)
    assert "BRAIN_DATABASE_URL: PostgreSQL " in told
    assert "its clock is 0.0" in told
    assert "pgvector 0." in told
    assert "schema brain is at version 2" in told


async def test_a_database_that_is_not_there_is_told_without_its_password(database_url: str) -> None:
    url = database_url.replace("postgres@", "postgres:canary@").replace("?host", "_none?host")
    config = BrainConfig(brain_database_url=url)
    (found,) = await look_at_databases(Case(config, [Named("brain", config)]))
    assert "does not exist" in found.what
    assert "canary" not in repr(found)
