import torch

from splattingocc.splatting.gather import gather_rows


def test_rows_and_their_gradients_are_those_of_indexing_and_repeat_to_the_last_digit():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(500, 17, generator=generator)
    index = torch.randint(500, (200_000,), generator=generator)
    weights = torch.randn(len(index), 17, generator=generator)

    def gradient_of(read) -> torch.Tensor:
        leaf = values.clone().requires_grad_()
        (read(leaf) * weights).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    assert torch.equal(gather_rows(values, index), values[index])
    first = gradient_of(lambda leaf: gather_rows(leaf, index))
    torch.testing.assert_close(first, gradient_of(lambda leaf: leaf[index]), rtol=1e-4, atol=1e-3)
    assert all(torch.equal(gradient_of(lambda leaf: gather_rows(leaf, index)), first) for _ in range(5))
