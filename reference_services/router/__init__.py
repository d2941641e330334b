"""Router: dispatch. Projects register agents, callers run them."""
