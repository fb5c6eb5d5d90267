"""Workers as the front sees them: how one is had, what it says, how it ends."""
