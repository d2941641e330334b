"""The project store: keys of projects in the Redis of the mesh, sealed, and pushed to every verifier.

`ProjectStore` is the verifier's side, `ProjectTable` the operator's.
"""

from meshkit.security.projects.store import ProjectStore, StoredRing
from meshkit.security.projects.table import ProjectTable

__all__ = ["ProjectStore", "ProjectTable", "StoredRing"]
