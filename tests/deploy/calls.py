"""What the tests ask of a mesh that is up, from within its network."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from meshkit import Mesh
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from tests.deploy.deployment import TENANT, Deployment, until
from tests.deploy.programs import beside

INSIDE = (Path(__file__).parent / "inside.py").read_text("utf-8")
READS_PER_SECOND = 20
HARVEST_S = 1500.0
FOLLOW_S = 5.0
"""Seconds within which pools follow a change."""
FINAL = {"WORKFLOW_STATE_SUCCEEDED", "WORKFLOW_STATE_FAILED", "WORKFLOW_STATE_CANCELLED"}


def call(mesh: Deployment, method: str, **request: Any) -> Any:
    """Calls a service that no port leads to, from within the router's container."""
    words = ("exec", "-T", "--env", f"CU_TENANT={TENANT}", "router", "meshkit", "call", "--compact")
    return json.loads(mesh.compose(*words, method, json.dumps(request)))


def begin_harvest(mesh: Deployment, feed: str, source: str) -> str:
    arguments = {"feed": f"/feeds/{feed}", "source": source}
    return str(
        call(
            mesh,
            "worker/StartWorkflow",
            workflow="harvest",
            idempotency_key=f"{source}-{feed}",
            arguments=arguments,
        )["id"]
    )


def workflow(mesh: Deployment, workflow_id: str) -> dict[str, Any]:
    found: dict[str, Any] = call(mesh, "worker/GetWorkflow", id=workflow_id)["workflow"]
    return found


def progress(mesh: Deployment, workflow_id: str) -> float:
    seen = workflow(mesh, workflow_id).get("progress", {})
    return int(seen.get("done", 0)) / max(int(seen.get("total", 0)), 1)


def harvest(mesh: Deployment, feed: str, source: str) -> dict[str, Any]:
    begun = begin_harvest(mesh, feed, source)
    until(lambda: workflow(mesh, begun)["state"] in FINAL, "the harvest ends", HARVEST_S)
    return workflow(mesh, begun)


def instances(mesh: Deployment, service: str) -> set[str]:
    """Instances of a service that the router knows, asked through its port: a program in a container begins slowly."""

    async def ask() -> set[str]:
        async with Mesh(mesh.outside()) as outside:
            request = router.ListInstancesRequest(service=service)
            reply = await outside.client(RouterClient).list_instances(request, timeout=FOLLOW_S)
            return {each.instance_id for each in reply.instances}

    return asyncio.run(ask())


def outcome(mesh: Deployment) -> str:
    """How the step went in which the router asks brain; the error where it could not be done without."""
    words = ("exec", "-T", "--env", f"CU_TENANT={TENANT}", "router", "meshkit", "call", "--compact")
    request = json.dumps({"input": "How long is a token valid?"})
    done = mesh.run("docker", "compose", *words, "router/ExecuteAgent", request)
    if done.returncode:
        return done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])  # warnings come before it
    (found,) = (step["outcome"] for step in answer["steps"] if step["name"] == "retrieve")
    return str(found)


def inside(mesh: Deployment, *words: str) -> dict[str, Any]:
    """Runs the page of this folder in a container of its own."""
    found: dict[str, Any] = json.loads(mesh.compose(*inside_words(*words)).splitlines()[-1])
    return found


def inside_words(*words: str) -> tuple[str, ...]:
    options = ("--rm", "-T", "--no-deps", "--env", f"CU_TENANT={TENANT}", "--entrypoint", "python")
    return ("run", *options, "zero", "-c", INSIDE, *words)


def reading(mesh: Deployment) -> AbstractContextManager[dict[str, Any]]:
    """Brain is read all the while; the tally is filled in at the end."""
    words = ("docker", "compose", *inside_words("reads", str(READS_PER_SECOND)))
    return beside(words, "reading", env=mesh.engine.environment, cwd=mesh.folder)
