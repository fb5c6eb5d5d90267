"""What clients of the gateway ask for: listings that are kept, files fetched as they are read."""
