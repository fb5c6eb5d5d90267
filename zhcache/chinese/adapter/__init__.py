"""Adapters: small networks from Chinese prompts into the space of a base model's text encoder."""
