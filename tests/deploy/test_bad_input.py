"""What a person did wrong, or the machine, and that they are told: by compose, or in `docker compose logs`."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.calls import FINAL, call, workflow
from tests.deploy.deployment import HERE, TENANT, Deployment, until

pytestmark = pytest.mark.deploy


@pytest.fixture
def mesh(checkout: Deployment) -> Iterator[Deployment]:
    """Nothing of it runs yet; the `.env` is a fresh one."""
    checkout.write_env()
    try:
        yield checkout
    finally:
        if not (checkout.folder / ".env").exists():
            checkout.write_env()
        checkout.down()


def refused(mesh: Deployment, *words: str, **settings: str) -> str:
    """What compose says that refuses to start anything."""
    done = mesh.run("docker", "compose", "up", "--detach", "--no-build", *words, **settings)
    print("\n" + done.stdout.strip().splitlines()[-1])
    assert done.returncode != 0, done.stdout
    return done.stdout


def told(mesh: Deployment, service: str, *texts: str) -> None:
    """Waits until the log of a service holds these."""

    def whole() -> bool:
        log = mesh.logs(service)
        return all(text in log for text in texts)

    try:
        until(whole, f"the log of {service} says {texts}")
    except AssertionError as error:
        error.add_note(mesh.logs(service))
        raise
    (line, *_) = (line for line in mesh.logs(service).splitlines() if texts[0] in line)
    print("\n" + line)


def test_without_an_env_compose_says_how_to_make_one(mesh: Deployment) -> None:
    (mesh.folder / ".env").unlink()
    assert "run make env" in refused(mesh)
    assert mesh.containers() == []


@pytest.mark.parametrize("name", ["CU_PROJECT_SECRET", "POSTGRES_PASSWORD", "ZERO_MASTER_KEY"])
def test_without_a_secret_compose_names_it(mesh: Deployment, name: str) -> None:
    mesh.change_env(**{name: ""})
    said = refused(mesh)
    assert name in said
    assert "run make env" in said
    assert mesh.containers() == []


def test_an_env_is_not_overwritten(mesh: Deployment) -> None:
    file = mesh.folder / ".env"
    before = file.read_bytes()
    done = mesh.run("make", "env")
    assert done.returncode != 0
    assert "is there already" in done.stdout
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_weak_secret_is_refused_by_every_service(mesh: Deployment) -> None:
    mesh.change_env(CU_PROJECT_SECRET="far-too-short")
    mesh.compose("up", "--detach", "--no-build")
    for service in ("brain", "router", "worker", "zero"):
        told(mesh, service, "CU_PROJECT_SECRET: the secret is 13 bytes, shorter than 32", "openssl rand")
    assert "far-too-short" not in mesh.logs("brain")


def test_a_port_that_is_taken_is_named(mesh: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mesh.change_env(ROUTER_PORT=str(port))
        said = refused(mesh)
    assert f"127.0.0.1:{port}" in said
    assert "in use" in said


def test_a_wrong_password_of_the_database_is_told(mesh: Deployment) -> None:
    mesh.up("postgres")
    mesh.change_env(POSTGRES_PASSWORD="another-one-than-the-volume-was-made-with")
    mesh.compose("up", "--detach", "--no-build")
    for service in ("brain", "worker"):
        told(mesh, service, f"set user and password in {service.upper()}_DATABASE_URL right")
    assert "another-one-than" not in mesh.logs("brain") + mesh.logs("worker")


def test_a_database_without_pgvector_is_told(mesh: Deployment, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM pgvector/pgvector:pg17\nRUN rm /usr/share/postgresql/17/extension/vector*\n"
    )
    mesh.engine.docker("build", "--quiet", "--tag", "meshkit-test/bare-postgres", str(tmp_path))
    mesh.compose("up", "--detach", "--no-build", "brain", POSTGRES_IMAGE="meshkit-test/bare-postgres")
    told(mesh, "brain", "has no extension 'vector': install it there", "pgvector/pgvector")


def test_a_volume_of_another_user_is_told(mesh: Deployment) -> None:
    command = "touch /volume/kept && chown -R root:root /volume && chmod 700 /volume"
    words = ("run", "--rm", "--user=root", "--network=none", "--entrypoint=sh")
    mesh.compose("create", "--no-build", "zero")
    mesh.engine.docker(*words, "--volume", f"{HERE}_zero:/volume", "contextunity/meshkit", "-c", command)
    mesh.compose("up", "--detach", "--no-build", "zero")
    told(mesh, "zero", "/var/lib/meshkit", "user 10001")


def test_feeds_that_the_workers_may_not_read_are_told(mesh: Deployment) -> None:
    mesh.up()
    feed = mesh.folder / "feeds" / "secret.csv"
    feed.write_text("sku,name,price,currency\nA,a thing,1.00,EUR\n")
    feed.chmod(0o600)
    arguments = {"feed": f"/feeds/{feed.name}", "source": "shop"}
    begun = call(mesh, "worker/StartWorkflow", workflow="harvest", idempotency_key="s", arguments=arguments)
    until(lambda: workflow(mesh, begun["id"])["state"] in FINAL, "the harvest ends")
    finished = workflow(mesh, begun["id"])
    assert finished["state"] == "WORKFLOW_STATE_FAILED"
    assert "FEED_UNREADABLE" in json.dumps(finished)
    print("\n" + finished["error"]["message"] if "error" in finished else json.dumps(finished))


def test_a_database_that_goes_away_is_told_and_found_again(mesh: Deployment) -> None:
    mesh.up()
    acknowledged = []

    def write(number: int) -> str:
        cell = {"id": f"cell-{number}", "text": f"The text of number {number}."}
        words = ("exec", "-T", "--env", f"CU_TENANT={TENANT}", "router", "meshkit", "call", "--compact")
        done = mesh.run("docker", "compose", *words, "brain/Upsert", json.dumps({"cells": [cell]}))
        if done.returncode == 0:
            acknowledged.append(cell["id"])
        return done.stdout

    for number in range(3):
        write(number)
    assert len(acknowledged) == 3
    (postgres,) = mesh.containers("postgres")
    mesh.engine.docker("kill", postgres.name)
    until(lambda: "DATABASE_UNAVAILABLE" in write(100), "calls are refused with a reason", 30)
    told(
        mesh,
        "brain",
        "the database fails",
        "contextunity at postgres:5432",
        "start it, or mend the way to it",
    )
    mesh.engine.docker("start", postgres.name)
    seconds = until(lambda: "STATUS_CREATED" in write(200), "brain finds it again")
    print(f"back {seconds:.1f} s after it was started")
    stored = {cell for (cell,) in mesh.sql(f"SELECT id FROM brain.cells WHERE tenant = '{TENANT}'")}
    assert set(acknowledged) - stored == set()
    assert {each.service for each in mesh.containers() if not each.pid} == set()


SLOW = """
CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN IF tg_tag = 'CREATE INDEX' THEN PERFORM pg_sleep(600); END IF; END $$;
CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION slow();
"""
ASLEEP = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def test_a_migration_that_was_interrupted_begins_anew(mesh: Deployment) -> None:
    mesh.up("postgres")
    mesh.sql(SLOW)
    mesh.compose("up", "--detach", "--no-build", "brain")
    until(lambda: mesh.sql(f"SELECT 1 {ASLEEP}") == [["1"]], "brain is amid its migration")
    (postgres,) = mesh.containers("postgres")
    postgres.kill()
    told(mesh, "brain", "cannot be the database of brain", "start it, or mend the way to it")
    until(lambda: any(each.health == "healthy" for each in mesh.containers("postgres")), "it is up again")
    until(lambda: mesh.sql(f"SELECT 1 {ASLEEP}") == [["1"]], "brain has begun anew")
    assert mesh.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'brain'") == [["0"]]
    mesh.sql("DROP EVENT TRIGGER slow")
    mesh.sql(f"SELECT pg_terminate_backend(pid) {ASLEEP}")
    until(lambda: all(each.health == "healthy" for each in mesh.containers("brain")), "brain serves")
    assert mesh.sql("SELECT count(*) > 0 FROM brain.migrations") == [["t"]]
