"""Gaussians as Mitsuba 3 ray-traces them, differentiably: a peer in speed, not an oracle.

It sorts Gaussians by where a ray enters them and stops at a hundredth of the light, ours by their centres and at a thousandth. Needs the
extra `peers` and an LLVM library.
"""

from __future__ import annotations

import math
from typing import Any

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.splatting.gaussians import Gaussians

HOW_TO_GET = "`pip install -c requirements/constraints.txt splattingocc[peers]`, and an LLVM library (on Debian `apt install libllvm19`)"
VARIANT = "llvm_ad_rgb"
NUM_CHANNELS = 3
ROUND_HARMONIC = 0.5 / math.sqrt(math.pi)
"""The spherical harmonic of degree 0: the integrator's colour is this times the coefficient, plus a half."""
PARAMETERS = ("shape.data", "shape.opacities", "shape.sh_coeffs")


def why_missing() -> str | None:
    """Return in one line why Mitsuba cannot be used and how to get it, None where it can."""
    try:
        import drjit  # pyright: ignore[reportMissingImports]  # an extra
        import mitsuba  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"Mitsuba is left out ({error}): {HOW_TO_GET}"
    if not drjit.has_backend(drjit.JitBackend.LLVM):
        return f"Mitsuba is left out (it finds no LLVM library): {HOW_TO_GET}"
    return None


class MitsubaGaussians:
    """A scene of those Gaussians that can be met at all, and the rays through it."""

    def __init__(self, gaussians: Gaussians, rays: Rays, *, num_threads: int) -> None:
        import drjit  # pyright: ignore[reportMissingImports]  # an extra
        import mitsuba  # pyright: ignore[reportMissingImports]

        if gaussians.features.shape[-1] != NUM_CHANNELS:
            raise ValueError(f"gaussians.features: has {gaussians.features.shape[-1]} channels, Mitsuba renders {NUM_CHANNELS}")
        mitsuba.set_variant(VARIANT)
        drjit.set_thread_count(num_threads)
        self._drjit, self._mitsuba = drjit, mitsuba
        met = gaussians.detach()
        kept = met.opacities >= MIN_ALPHA
        arrays = {
            "centers": met.means[kept],
            "scales": met.scales[kept],
            "quaternions": met.quats[kept][:, [1, 2, 3, 0]],
            "opacities": met.opacities[kept][:, None],
            "sh_coeffs": (met.features[kept] - 0.5) / ROUND_HARMONIC,
        }
        # How far the most opaque one is met, in standard deviations; Mitsuba has one extent for all
        extent = math.sqrt(2 * math.log(float(met.opacities.max()) / MIN_ALPHA))
        shape = {"type": "ellipsoids", "extent": extent, **{name: mitsuba.TensorXf(each.numpy()) for name, each in arrays.items()}}
        integrator = {"type": "volprim_rf_basic", "max_depth": -1, "srgb_primitives": False}
        self._scene = mitsuba.load_dict({"type": "scene", "integrator": integrator, "shape": shape})
        self._parameters = mitsuba.traverse(self._scene)
        self._rays = mitsuba.Ray3f(mitsuba.Point3f(rays.origins.numpy().T), mitsuba.Vector3f(rays.directions.numpy().T))
        drjit.sync_thread()

    def build(self) -> None:
        """Build the tree of boxes anew, as after each step that moved the Gaussians; gradients begin at zero."""
        for name in PARAMETERS:
            # A copy: what has a gradient from before is another variable
            self._parameters[name] = self._mitsuba.Float(self._drjit.detach(self._parameters[name]))
            self._drjit.enable_grad(self._parameters[name])
        self._parameters.update()
        self._drjit.eval([self._parameters[name] for name in PARAMETERS])
        self._drjit.sync_thread()

    def render(self) -> Any:
        """Return the colour of each ray, an array of (3, ray), not a camera's image: the integrator is given the rays themselves."""
        with self._drjit.suspend_grad():
            colours, _, _, self._state = self._scene.integrator().sample(
                self._drjit.ADMode.Primal, self._scene, None, self._rays, None, None, True
            )
            self._drjit.eval(colours, self._state)
        self._drjit.sync_thread()
        return colours.numpy()

    def backward(self, gradients: Any) -> None:
        """Walk the rays again with the gradients of their colours, after `render`."""
        with self._drjit.suspend_grad():
            given = self._mitsuba.Spectrum(gradients)
            self._scene.integrator().sample(self._drjit.ADMode.Backward, self._scene, None, self._rays, given, self._state, True)
            self._drjit.eval()
        self._drjit.sync_thread()

    def gradients(self) -> list[Any]:
        """Return those of the scene's parameters as flat numpy arrays."""
        return [self._drjit.grad(self._parameters[name]).numpy() for name in PARAMETERS]
