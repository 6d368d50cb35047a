"""Vision-centric 3D semantic occupancy from 2D labels only: Gaussians rendered along rays."""

__version__ = "0.1.0"
