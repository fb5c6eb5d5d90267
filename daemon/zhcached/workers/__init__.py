"""The processes that hold torch: no network, no tokens, no store. The front talks to them."""
