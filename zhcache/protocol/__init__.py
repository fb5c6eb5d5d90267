"""What client and daemon share: names, messages, the version handshake. No I/O."""
