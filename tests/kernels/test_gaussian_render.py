import pytest
import warp as wp

from splattingocc.kernels import gaussian_index, gaussian_read_out, gaussian_render

HOPPER = 90


@pytest.mark.parametrize("channels", [3, 18])
def test_the_kernels_compile_for_cuda_on_a_machine_without_one(channels, tmp_path):
    rendering = gaussian_render.render_kernels(channels)
    kernels = [
        gaussian_index.describe,
        gaussian_render.collect_geometry,
        rendering.forward,
        gaussian_read_out.widen,
        gaussian_read_out.read_out_kernel(channels),
    ]
    for kernel in kernels:
        folder = tmp_path / kernel.module.name
        wp.compile_aot_module(kernel.module, arch=HOPPER, use_ptx=True, module_dir=folder)
        (ptx,) = folder.glob("*.ptx")
        assert f".target sm_{HOPPER}" in ptx.read_text(), kernel.module.name


def test_each_channel_count_is_compiled_once_and_apart():
    assert gaussian_render.render_kernels(3) is gaussian_render.render_kernels(3)
    assert gaussian_render.render_kernels(3).forward.module is not gaussian_render.render_kernels(4).forward.module
