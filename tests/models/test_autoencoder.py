import pytest
import torch
from torch import Tensor

from rcodsr.models.autoencoder import WaveletAutoencoder, inverse_wavelet, lift, wavelet
from rcodsr.parts import WaveletSpec


def test_lifting_of_a_ramp_by_hand() -> None:
    # a straight line has no detail, except at the repeated last entry
    low, high = lift(torch.arange(8.0).view(1, 1, 1, 8), 3)
    assert high.flatten().tolist() == [0, 0, 0, 1]
    assert low.flatten().tolist() == [0, 2, 4, 6.25]


@pytest.mark.parametrize("size", [(4, 4), (16, 4), (20, 36)])
def test_wavelet_is_exactly_invertible(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(inverse_wavelet(wavelet(x)), x, atol=1e-6, rtol=0)


def test_wavelet_subbands_see_their_direction() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    ll, lh, hl, hh = wavelet(stripes).chunk(4, 1)
    assert hl.abs().mean() > 1
    assert max(part.abs().mean() for part in (ll[..., 1:], lh, hh)) < 1e-6


def test_encode_decode_is_the_identity_before_training(photo_tensor: Tensor) -> None:
    autoencoder = WaveletAutoencoder(WaveletSpec())
    x = photo_tensor[None, :, :128, :96]
    autoencoder.fit(x)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(x)), x, atol=1e-5, rtol=0)


def test_fit_standardises_each_channel(photo_tensor: Tensor) -> None:
    autoencoder = WaveletAutoencoder(WaveletSpec())
    x = photo_tensor[None]
    autoencoder.fit(x)
    z = autoencoder.encode(x)
    assert z.shape == (1, 48, 128, 128)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(48), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(48), atol=1e-3, rtol=0)
