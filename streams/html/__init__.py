"""Reports as one HTML page: hand-written SVG and CSS, no script, nothing loaded from anywhere."""
