"""What processes take of a machine: CPU, memory, GPUs, disk and network, over time and at most."""
