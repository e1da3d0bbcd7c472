"""Models on disk: manifest, publishing, earlier versions."""
