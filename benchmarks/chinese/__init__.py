"""Does the Chinese prompt reach the picture? Measured on the model that comes with the project."""
