"""Who calls, and what they may do: keys, tokens, request proofs, and the layers that demand and make them."""
