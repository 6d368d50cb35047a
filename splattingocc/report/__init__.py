"""One HTML file that shows a run: scores, curves, pictures, films, and its occupancy in 3D. It needs neither a server nor a network."""
