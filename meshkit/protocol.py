"""The mesh's own contracts: what every instance tells of itself (`mesh`), and its authority (`shield`).

from meshkit.protocol import ShieldClient, shield

keys = await mesh.client(ShieldClient).get_keys(shield.GetKeysRequest())
"""

from meshkit._gen.meshkit.shield.v1 import shield_pb2 as shield
from meshkit._gen.meshkit.shield.v1.shield_client import ShieldClient
from meshkit._gen.meshkit.v1 import mesh_pb2 as mesh
from meshkit._gen.meshkit.v1.mesh_client import MeshClient

__all__ = ["MeshClient", "ShieldClient", "mesh", "shield"]
