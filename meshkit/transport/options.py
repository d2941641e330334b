"""Channel arguments that both sides of a connection set alike, so that neither surprises the other."""

from __future__ import annotations

from typing import Any

KEEPALIVE_S = 20
KEEPALIVE_TIMEOUT_S = 5
CONNECT_TIMEOUT_S = 1

MAX_METADATA_BYTES = 16 * 1024
"""Metadata of a request or a reply in all: two tokens of full size, and room for more."""

MAX_PENDING = 100_000
"""Calls that wait to be looked at. Past a limit gRPC cuts them off without a reason; to refuse is admission's."""

UNREAD_BYTES = 256 * 1024
"""What a server takes of a stream of requests beyond what its handler reads. Left to itself gRPC lets the window grow
with the speed of the connection, to more than 4 MiB a stream."""

Options = list[tuple[str, Any]]


def server_options(
    max_message_bytes: int, *, connection_age: float | None = None, shares_port: bool = False
) -> Options:
    """Arguments of a server.

    Args:
        max_message_bytes: Largest message taken or sent, in bytes.
        connection_age: Seconds after which a connection takes no more calls, and as many again that calls under way
            have then; None for as long as it stands. gRPC varies it by a tenth.
        shares_port: Whether other processes listen on its port as well, on purpose.
    """
    ending: Options = []
    if connection_age is not None:
        milliseconds = int(connection_age * 1000)
        ending = [
            ("grpc.max_connection_age_ms", milliseconds),
            ("grpc.max_connection_age_grace_ms", milliseconds),
        ]
    return [
        *ending,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ]


def channel_options(max_message_bytes: int) -> Options:
    """Arguments of a channel to one instance: retries and backoff are the mesh's own, gRPC's are off.

    Args:
        max_message_bytes: Largest message taken or sent, in bytes.
    """
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_S * 1000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.enable_http_proxy", 0),
    ]
