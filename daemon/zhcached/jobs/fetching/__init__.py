"""The files of a job on their way: several at once, each set of bytes once in the daemon."""
