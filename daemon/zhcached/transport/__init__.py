"""The way to the hubs: which addresses may be reached, connections, one HTTP exchange.

Knows nothing of hubs, repositories or the store. Synchronous; every class says what may be used
from several threads.
"""
