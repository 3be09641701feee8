"""JPEG decoding straight into an array, where simplejpeg (the extra ``fast``) is installed.

It drives the same library as Pillow, libjpeg-turbo, and gives the same pixels to the bit; only the
ways around it are shorter. Without it Pillow decodes.
"""

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


def decode_jpeg(image: Image.Image, wanted: tuple[int, int]) -> np.ndarray | None:
    """Decode a JPEG whose pixels have not been asked for yet.

    Args:
        wanted: Width and height that suffice; it is decoded at 1/2, 1/4 or 1/8 of its size where
            that leaves as much.

    Returns:
        ``h w 3``; or None for what Pillow must decode: other formats and modes, files that are
        slightly damaged (which simplejpeg refuses and Pillow may take), or no simplejpeg.
    """
    file = getattr(image, "fp", None)
    if simplejpeg is None or image.format != "JPEG" or image.mode != "RGB" or file is None:
        return None
    if not getattr(image, "tile", None):  # decoded already
        return None
    file.seek(0)
    data = file.read()
    width, height = image.size
    smaller = wanted[0] * 2 <= width and wanted[1] * 2 <= height
    size = {"min_width": wanted[0], "min_height": wanted[1]} if smaller else {}
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", **size))
    except ValueError:
        return None
