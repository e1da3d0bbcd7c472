"""The HTTP service: detection, model registry, recording, review queue, routes, middleware and pages."""
