"""Client of resident pipelines: calls what a worker of the daemon's runs. Imports no torch."""
