import pytest
import skimage.data
from PIL import Image, ImageCms


@pytest.fixture
def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()[60:124, 120:216])  # 96×64


@pytest.fixture(scope="module")
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
