"""How good pictures are, and how far apart."""
