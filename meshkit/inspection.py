"""What every instance serves beside its own contract: itself, and the services that it calls, for those who look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit.balancing import POLICIES
from meshkit.balancing.gate import GateState
from meshkit.balancing.peak_ewma import PeakEwma
from meshkit.call import Call
from meshkit.config.explained import explain
from meshkit.declaration import PUBLIC, Rpc
from meshkit.errors import NotFound
from meshkit.service import CUService, has_policy, rpc

if TYPE_CHECKING:
    from meshkit.balancing.endpoint import Endpoint
    from meshkit.balancing.pool import EndpointPool
    from meshkit.config.certificates import Certificate
    from meshkit.latency import Latencies
    from meshkit.parts import Parts
    from meshkit.resilience.fair_limit import FairLimit
    from meshkit.security.certificates import CertificateFiles
    from meshkit.telemetry.calls import Tally

PERMISSION = "mesh:inspect"


class Inspection(CUService, contract=pb.DESCRIPTOR.services_by_name["MeshService"], name="mesh"):
    """`meshkit.v1.MeshService` of one replica. It belongs to no tenant and changes nothing."""

    replica: Parts

    @rpc(permission=PERMISSION, tenant="none")
    async def describe(self, request: pb.DescribeRequest, call: Call) -> pb.DescribeResponse:
        """The instance: what it is, how it is set up, and what it serves at this moment."""
        replica = self.replica
        instance = replica.instance
        assert instance is not None
        return pb.DescribeResponse(
            service=replica.name,
            instance_id=replica.instance_id,
            address=instance.address,
            zone=instance.zone,
            version=instance.version,
            started_at=_timestamp(instance.started_at),
            now=_timestamp(time.time()),
            state=replica.lifecycle.state,
            lacking=replica.lifecycle.lacking,
            jobs=[
                pb.BackgroundJob(
                    name=job.attribute, seconds=job.seconds, begun=runs.begun, failed=runs.failed
                )
                for job in replica.kind.definition.jobs
                for runs in (replica.runs[job.attribute],)
            ],
            registry=str(replica.registry),
            settings=[
                pb.Setting(name=each.name, value=each.value, source=each.source)
                for each in explain(replica.config)
            ],
            admission=pb.Admission(
                limit=replica.admission.limit,
                running=replica.admission.running,
                streams=replica.admission.streams,
                refusing=replica.admission.refusing or "",
                calls=_limit(replica.admission.calls),
                lag_s=replica.admission.lag.seconds,
                shedding=replica.admission.lag.late,
            ),
            budget=pb.Budget(balance=replica.mesh.budget.balance()),
            refusals=replica.observer.refusals.counts,
            methods=[_method(rpc, replica) for rpc in replica.service.definition.rpcs],
            certificates=[
                _expiry(files, leaf)
                for files in (replica.certificates, replica.mesh.certificates)
                if files is not None and (leaf := files.material.leaf) is not None
            ],
        )

    @rpc(permission=PERMISSION, tenant="none")
    async def list_pools(self, request: pb.ListPoolsRequest, call: Call) -> pb.ListPoolsResponse:
        """The services that the instance calls, as it sees them.

        Raises:
            NotFound: It does not call one of those that were asked for.
        """
        pools = self.replica.mesh.pools
        for service in request.services:
            if service not in pools:
                raise NotFound(
                    f"{self.replica.instance_id} has not called {service}",
                    reason="POOL_UNKNOWN",
                    service=service,
                )
        wanted = request.services or sorted(pools)
        return pb.ListPoolsResponse(pools=[described(pools[service]) for service in wanted])

    @rpc(permission=PERMISSION, tenant="none")
    async def measure(self, request: pb.MeasureRequest, call: Call) -> pb.MeasureResponse:
        """What the instance has counted since it started."""
        replica, observer, budget = self.replica, self.replica.observer, self.replica.mesh.budget
        return pb.MeasureResponse(
            instance_id=replica.instance_id,
            state=replica.lifecycle.state,
            uptime_s=replica.uptime(),
            calls=[_calls(name, tally) for name, tally in sorted(observer.calls.by_method.items())],
            refusals=observer.refusals.counts,
            shed=observer.refusals.shed,
            retries=budget.retries,
            hedges=budget.hedges,
            budget=budget.balance(),
            running=replica.admission.running,
            streams=replica.admission.streams,
            loop_lag_s=replica.admission.lag.lately,
            lease_age_s=replica.lease_age(),
        )


def inspection_of(replica: Parts) -> Inspection:
    """The inspection of a replica."""
    inspection = Inspection(config=replica.config, mesh=replica.mesh)
    inspection.replica = replica
    return inspection


def _calls(name: str, tally: Tally) -> pb.MethodCalls:
    p50, p99 = (tally.latencies.quantile(share, least=1) or 0.0 for share in (0.5, 0.99))
    return pb.MethodCalls(
        method=name,
        codes={code: histogram.count for code, histogram in tally.by_code.items()},
        total_s=sum(histogram.total for histogram in tally.by_code.values()),
        p50_s=p50,
        p99_s=p99,
    )


def _method(rpc: Rpc, replica: Parts) -> pb.ServedMethod:
    limit = replica.admission.methods.get(rpc.method.path)
    return pb.ServedMethod(
        path=rpc.method.path,
        permission="" if rpc.permission is PUBLIC else rpc.permission,
        tenant=rpc.tenant,
        idempotent=rpc.method.idempotent,
        timeout_s=rpc.timeout or 0.0,
        allowed_peers=sorted(getattr(rpc, "allow_peers", None) or ()),
        own_policy=has_policy(type(replica.service)),
        limit=None if limit is None else _limit(limit),
    )


def _limit(limit: FairLimit) -> pb.Limit:
    return pb.Limit(
        limit=limit.limit,
        running=limit.running,
        waiting=limit.waiting,
        refused=limit.refused,
        average_s=limit.average,
    )


def described(pool: EndpointPool) -> pb.Pool:
    """A pool as it is now."""
    selection = pool.selection()
    found = pb.Pool(
        service=pool.service,
        registry=pool.registry,
        policy=_name(pool.policy),
        zone=pool.zone,
        panic=selection.panic,
        spill=selection.spill,
        in_flight=pool.load.in_flight,
        endpoints=[_endpoint(pool, pool.endpoints[each]) for each in sorted(pool.endpoints)],
        methods=[_latency(path, each) for path, each in sorted(pool.outliers.methods.items())],
    )
    if pool.stale_since is not None:
        found.stale_since.CopyFrom(_timestamp(pool.stale_since))
    return found


def _endpoint(pool: EndpointPool, endpoint: Endpoint) -> pb.Endpoint:
    now, gate, instance = pool.clock(), endpoint.gate, endpoint.instance
    oldest = next(iter(endpoint.flights.values()), None)
    policy = pool.policy
    return pb.Endpoint(
        instance_id=instance.instance_id,
        address=instance.address,
        zone=instance.zone,
        state=instance.state.value,
        weight=endpoint.weight,
        ready=endpoint.link.ready,
        resting=endpoint.resting,
        gate=gate.state.value,
        gate_reason=gate.why,
        gate_opens_in_s=max(0.0, gate.until - now) if gate.state is GateState.SHUT else 0.0,
        in_flight=endpoint.in_flight,
        oldest_s=now - oldest.started if oldest else 0.0,
        picks=endpoint.picks,
        failures=endpoint.failures,
        expected_s=policy.average(endpoint) if isinstance(policy, PeakEwma) else None,
        trouble=endpoint.link.trouble,
    )


def _expiry(files: CertificateFiles, leaf: Certificate) -> pb.CertificateExpiry:
    return pb.CertificateExpiry(
        side=files.use.name.lower(),
        file=str(files.file),
        spiffe_id=next(iter(leaf.uris), ""),
        not_after=_timestamp(leaf.not_after),
        warned_from=_timestamp(leaf.warned_from),
    )


def _latency(path: str, latencies: Latencies) -> pb.MethodLatency:
    p50, p95, p99 = (latencies.quantile(share, least=1) or 0.0 for share in (0.5, 0.95, 0.99))
    return pb.MethodLatency(path=path, p50_s=p50, p95_s=p95, p99_s=p99)


def _name(policy: object) -> str:
    return next((name for name, kind in POLICIES.items() if kind is type(policy)), type(policy).__name__)


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
