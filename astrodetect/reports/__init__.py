"""Self-contained HTML reports: Jinja templates, SVG charts and thumbnails."""
