"""Redis: the client of the mesh, and a server of its own for one machine."""
