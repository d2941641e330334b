"""The settings that every program of the mesh has: names, grammar, defaults, meaning, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from meshkit.config import grammar, secrets, state
from meshkit.config.grammar import Environment, LbPolicy, LogLevel, OnFailure, RequestProof
from meshkit.config.names import shared_name
from meshkit.config.otlp_url import OtlpUrl
from meshkit.config.redis_url import RedisUrl
from meshkit.config.registry_url import RegistryUrl
from meshkit.config.secrets import ProjectSecret, SealingKey, Secret
from meshkit.config.stamps import Stamp


def _in(local: Any, production: Any) -> Any:
    """A default that depends on `CU_ENV`."""
    return lambda data: production if data["env"] is Environment.PRODUCTION else local


class SharedFields(BaseModel):
    """The fields of `SharedConfig`, which reads and checks them."""

    model_config = ConfigDict(defer_build=True)

    env: Environment = Field(
        default=Environment.LOCAL,
        description="Where this runs; `production` switches the production rules on.",
    )
    service_name: grammar.OptionalServiceName = Field(
        default="", description="What the service is called in the mesh; empty: the name of its class."
    )
    service_version: grammar.Version = Field(
        default="0.0.0", description="The service's own version, as discovery and logs show it."
    )
    namespace: grammar.Namespace = Field(
        default="contextunity",
        description="Name of the mesh: programs meet only within one; part of keys, and of folder names.",
    )
    default_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=86400,
        description="Deadline in seconds of a unary call for which neither the proto's `deadline_ms` nor the "
        "caller gives one.",
    )
    zone: grammar.OptionalZone = Field(
        default="", description="Locality of this replica; empty: it does not matter."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Share of calls that this replica gets, relative to its peers.",
    )
    shard_key: grammar.OptionalShardKey = Field(
        default="",
        description="Name of this replica for tenant sharding, the same after a restart; empty: its address.",
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="The least severe log lines that are written."
    )
    log_json: bool = Field(
        default_factory=_in(False, True), description="Log lines as JSON objects, instead of text for people."
    )
    log_access_rate: float = Field(
        default_factory=_in(0.0, 100.0),
        ge=0,
        le=1_000_000,
        description="Lines a second that the log has at most of calls that were served, one a call, and as many of "
        "calls that failed by the service's fault; 0: none.",
    )
    grpc_host: grammar.Host = Field(
        default_factory=_in("127.0.0.1", "0.0.0.0"),
        description="Address or name to bind to; `0.0.0.0` and `::` mean all of the machine's.",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port to bind to, 0 for any free one; unset: the port of the service's class.",
    )
    grpc_advertise: grammar.OptionalAddress = Field(
        default="",
        description="`host:port` that other services dial; empty: what is bound, with the machine's "
        "name where bound to all.",
    )
    grpc_max_message_mb: int = Field(
        default=16, ge=1, le=1024, description="Largest message in MiB, both directions, both sides."
    )
    grpc_tls_enabled: bool = Field(
        default=False, description="Whether calls are encrypted, on both sides of them; production: yes."
    )
    grpc_tls_ca_cert: Path | None = Field(
        default=None,
        description="PEM file of the authorities that sign the certificates of the mesh; needed for TLS.",
    )
    grpc_tls_server_cert: Path | None = Field(
        default=None,
        description="PEM file of the certificate that a service shows to its callers, with the DNS name "
        "`<service>.<namespace>` and the URI `spiffe://<namespace>/<service>`; `{service}` in its path stands for "
        "the service's name. Read again when it changes.",
    )
    grpc_tls_server_key: Path | None = Field(
        default=None, description="PEM file of its private key, which others may not read."
    )
    grpc_tls_client_cert: Path | None = Field(
        default=None,
        description="PEM file of the certificate that this program shows to the services that it calls; a "
        "service may name the one that it serves with. Read again when it changes.",
    )
    grpc_tls_client_key: Path | None = Field(
        default=None, description="PEM file of its private key, which others may not read."
    )
    grpc_tls_require_client_auth: bool = Field(
        default_factory=lambda data: data["grpc_tls_enabled"] and data["env"] is Environment.PRODUCTION,
        description="Whether callers must show a certificate too (mTLS).",
        json_schema_extra={"default_text": "on in production, where TLS is on"},
    )
    health_host: grammar.Host = Field(
        default="127.0.0.1", description="Address or name that the health port is bound to."
    )
    health_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port where grpc.health.v1 alone is served, in plain text, for probes that have no "
        "certificate; 0 for any free one; unset: nowhere but on GRPC_PORT.",
    )
    max_calls: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Unary calls served at once, and as many open streams beside them, in fair shares per tenant; "
        "of those that are too many a few wait for their turn, the rest is refused with RESOURCE_EXHAUSTED.",
    )
    max_lag_s: float = Field(
        default=0.2,
        ge=0,
        le=60,
        description="Seconds by which the event loop may be late before calls that are `sheddable` are refused; 0: "
        "any.",
    )
    redis_url: Secret = Field(
        default=Secret(""),
        description="The mesh's Redis: `redis://user:password@host:6379/0`, "
        "`redis+sentinel://user:password@host,host/master/0` or `redis+cluster://user:password@host,host`, "
        "`rediss…://` over TLS, with `?ssl_ca_certs=/file` and the like; empty: there is none.",
        json_schema_extra={"default_text": "not set"},
    )
    redis_secret_key: Secret = Field(
        default=Secret("false"),
        description="Keys that seal the records in Redis, `kid:key,kid:key`, each 32 bytes in base64url: the "
        "first seals, all open; `false`: records are plain.",
        json_schema_extra={
            "default_text": "false",
            "make": "echo \"k1:$(openssl rand -base64 32 | tr '/+' '_-')\"",
        },
    )
    registry_url: RegistryUrl = Field(
        default="",
        description="Where instances are found: `redis…://` as in REDIS_URL, "
        "`dns://?brain=host:port&router=host:port`, `static://brain=host:port,host:port;router=host:port`, "
        "`file:///folder` or `memory://`; empty: REDIS_URL where it is set, else a file registry in the "
        "state folder.",
    )
    state_dir: Path = Field(
        default_factory=lambda data: state.default_folder(data["namespace"]),
        description="Folder of embedded databases, the file registry and the local secret; made with "
        "mode 0700 when first needed.",
        json_schema_extra={"default_text": "`$XDG_STATE_HOME/meshkit/<namespace>`, else `~/.local/state/…`"},
    )
    lease_ttl_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        description="Seconds after its last renewal that a lease ends; renewed every third of it.",
    )
    lb_policy: LbPolicy = Field(
        default=LbPolicy.PEAK_EWMA, description="How the next endpoint of a service is picked."
    )
    lb_policies: Mapping[grammar.ServiceName, LbPolicy] = Field(
        default_factory=dict,
        description="Policies of single services: `brain=tenant_shard,router=least_request`.",
    )
    lb_slow_start_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds in which a newcomer comes to its full share of calls; 0: at once. Where all are new it "
        "makes no difference.",
    )
    lb_subset_size: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Instances of a service that this program connects to, chosen so that callers spread over all; "
        "0: all of them. Not with `tenant_shard`, which needs all.",
    )
    project_id: grammar.ProjectId = Field(
        default="local", description="The project that this program belongs to."
    )
    project_secret: Secret = Field(
        default=Secret(""),
        description="The project's secrets, `kid:secret,kid:secret` with the newest first, or one bare "
        "secret; each of 32 to 1024 bytes. May be absent in local on loopback: one is made in the state "
        "folder.",
        json_schema_extra={"make": "openssl rand -hex 32"},
    )
    project_keys_file: Path | None = Field(
        default=None, description="TOML file with key rows of other projects, read again when it changes."
    )
    tenant: grammar.OptionalTenant = Field(
        default_factory=_in("local", ""), description="Tenant of calls of a script that names none."
    )
    shield_grpc_url: grammar.OptionalAddresses = Field(
        default="",
        description="`host:port` of Shield, or of each of its replicas with commas in between: tokens come from there, "
        "and only those are taken; empty: projects make their own with their secrets.",
    )
    token_ttl_s: int = Field(
        default=300, ge=1, le=86400, description="Seconds that a token made here is valid."
    )
    token_max_ttl_s: int = Field(
        default=3600, ge=1, le=86400, description="Longest validity in seconds that a token is accepted with."
    )
    clock_skew_s: float = Field(
        default=30.0, ge=1, le=600, description="Seconds that the clocks of caller and callee may differ by."
    )
    stream_max_age_s: float = Field(
        default=3600.0,
        gt=0,
        le=604800,
        description="Seconds after which a stream is ended, to be opened anew.",
    )
    request_proof: RequestProof = Field(
        default=RequestProof.REQUIRED,
        description="Whether calls must prove possession of the key; production: `required` only.",
    )
    replay_shared: bool = Field(
        default_factory=lambda data: bool(data.get("redis_url") and data["redis_url"].get_secret_value()),
        description="Whether replicas share in Redis which proofs for no particular instance they saw, for methods "
        "that are not idempotent: else each replica takes such a call once.",
        json_schema_extra={"default_text": "on where REDIS_URL is set"},
    )
    without_redis: OnFailure = Field(
        default_factory=_in(OnFailure.OPEN, OnFailure.CLOSED),
        description="What becomes of calls that Redis has to be asked about while it is away: `closed` refuses them, "
        "`open` lets them in. Those are the ones of CU_REPLAY_SHARED, and all as long as no revocations were read "
        "since the start.",
    )
    drain_grace_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds that calls in flight have to end when the service stops.",
    )
    drain_streams_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds of CU_DRAIN_GRACE_S that open streams have to end by themselves; then they are ended, and "
        "their callers told to call again.",
    )
    drain_propagation_s: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="Seconds for callers to notice that the service drains, before it refuses calls.",
    )
    otel_enabled: bool = Field(
        default=False,
        description="Whether traces are recorded, and sent with the metrics by OpenTelemetry; needs the extra `otel`.",
    )
    otel_exporter_otlp_endpoint: OtlpUrl = Field(
        default="",
        description="Where they are sent: `http://host:4318`, OTLP over HTTP; empty: `http://localhost:4318`.",
    )
    metrics_host: grammar.Host = Field(
        default="127.0.0.1", description="Address or name that the metrics port is bound to."
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port of a page of metrics for Prometheus, one for all services of the process, in plain text "
        "and for anybody who reaches it; a free one where another replica has it, which the registry tells; 0: none.",
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _files: Mapping[Path, Stamp] = PrivateAttr(default_factory=dict)

    @classmethod
    def env_name(cls, field: str) -> str:
        """The name of a field in the environment."""
        return shared_name(field) if field in SharedFields.model_fields else field.upper()

    @property
    def files(self) -> Mapping[Path, Stamp]:
        """The files that `load` read it from, as they were; also those that were not there, and would count."""
        return self._files

    @property
    def project_secrets(self) -> tuple[ProjectSecret, ...]:
        """The configured secrets, newest first; empty where there is none. See `ensure_project_secrets`."""
        return secrets.parse_project_secrets(self.project_secret.get_secret_value())

    @property
    def redis(self) -> RedisUrl | None:
        """The mesh's Redis; None where `REDIS_URL` is not set."""
        url = self.redis_url.get_secret_value()
        return RedisUrl.parse(url) if url else None

    @property
    def sealing_keys(self) -> tuple[SealingKey, ...]:
        """What seals and opens records in Redis, the one that seals first; empty where they are plain."""
        return secrets.parse_sealing_keys(self.redis_secret_key.get_secret_value())

    @property
    def effective_registry_url(self) -> str:
        """The registry that is used: the configured one, else the mesh's Redis, else files in the state folder.

        It may carry a password: it is for opening the registry, not for people.
        """
        return self.registry_url or self.redis_url.get_secret_value() or f"file://{self.state_dir}/registry"

    @property
    def max_message_bytes(self) -> int:
        """Largest message in bytes."""
        return self.grpc_max_message_mb * 1024 * 1024

    def lb_policy_for(self, service: str) -> LbPolicy:
        """The balancing policy for calls to a service."""
        return self.lb_policies.get(service, self.lb_policy)
