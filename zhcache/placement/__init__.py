"""Where a pipeline goes on a machine, decided from sizes alone. Pure: no torch, no I/O."""
