"""The mesh's checks for gRPC that is not the mesh's: an existing grpc.aio server, an existing channel.

A server keeps its servicers and its port; an interceptor lets in only calls that carry a token and a proof:

    guard = MeshInterceptor("orders", demands={"/orders.v1.OrderService/Place": Demand("orders:place")})
    server = grpc.aio.server(interceptors=[guard])

A client keeps its channel and its stubs; the channel is wrapped in one that signs:

    channel = sign(grpc.aio.insecure_channel("orders:50051"), "orders")
    stub = OrderServiceStub(channel)

`Demand(…, peers=frozenset({"router"}))` lets in the peers of these names only, where the server asks for client
certificates of the mesh.

What is revoked in Redis and by Shield counts as it does for services, from the first call, or from `await
guard.start()`; `await guard.close()` when the server has stopped.

Neither takes part in discovery, balancing or retries; how many calls the server takes, and how it stops, stays its own
affair. Calls are signed for any instance (`x-cu-to: -`), so a server
that wants them to be for itself alone has to become a `CUService`.
"""

from meshkit.interceptors.channel import sign
from meshkit.interceptors.server import MeshInterceptor, current_call
from meshkit.security.guard import Demand

__all__ = ["Demand", "MeshInterceptor", "current_call", "sign"]
