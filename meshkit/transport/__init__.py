"""gRPC: the only place, with `interceptors`, that touches it."""
