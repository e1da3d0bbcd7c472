"""What goes wrong around a service, done to real processes; `pytest tests/faults --full` takes the promised lengths."""
