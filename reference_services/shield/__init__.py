"""Shield, the authority of a mesh: it issues tokens that are bound to a key, and takes them back."""
