"""Features to how unusual, and why."""
