from dataclasses import replace

import torch

from rcodsr.models.tiny_unet import TinyUNet
from rcodsr.parts import TinyUNetSpec

SPEC = TinyUNetSpec(channels=(8, 12), blocks=(1, 3), embedding=16, heads=2)


def test_a_deeper_network_computes_the_same_at_first_and_learns_in_every_block() -> None:
    torch.manual_seed(0)
    unet = TinyUNet(4, 6, SPEC)
    for parameter in unet.parameters():  # zeros would hide errors
        torch.nn.init.normal_(parameter, std=0.2)
    deeper = unet.grown(replace(SPEC, blocks=(3, 6)))
    assert deeper.spec.blocks == (3, 6)
    z, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([250, 750]), torch.randn(2, 5, 6)
    with torch.no_grad():
        expected, got = unet(z, t, tokens), deeper(z, t, tokens)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    deeper(z, t, tokens).square().mean().backward()
    stages = (*deeper.encoders, deeper.middle, *deeper.decoders)
    assert all(block.conv2.weight.grad.abs().sum() > 0 for stage in stages for block in stage.children())


def test_a_network_never_loses_blocks() -> None:
    assert TinyUNet(4, 6, SPEC).grown(replace(SPEC, blocks=(2, 2))).spec.blocks == (2, 3)
