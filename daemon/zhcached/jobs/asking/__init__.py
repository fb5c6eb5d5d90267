"""What the sources say of a repository, how they are, and what follows from it."""
