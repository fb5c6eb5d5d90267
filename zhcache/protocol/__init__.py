"""What client and daemon share: names, messages, frames, the version handshake. Opens nothing."""
