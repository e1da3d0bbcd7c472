"""Storage: reading and writing bytes at local paths and URLs, and shards of many images."""
