"""Loading pipelines. The only part of the client that imports torch and diffusers."""
