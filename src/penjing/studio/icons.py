"""The icon: a small tree in a tray, drawn from a list of shapes, as SVG for browser tabs and PNG for home screens.

A shape is where a signed distance is at most 0; half a pixel to both sides of that edge is blended, so edges are smooth
at any size:

    colour = mix(colour, shape's colour, clamp(0.5 - distance in pixels, 0, 1))
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

PAPER, LEAF, SHADE, TRUNK, TRAY = "#f4f1e8", "#3f6b57", "#2f5444", "#6b4a35", "#2b3a42"
_Grid = Float[NDArray[np.float64], "height width"]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse around (x, y). All measures are parts of the icon's width."""

    colour: str
    x: float
    y: float
    wide: float
    high: float

    def distance(self, x: _Grid, y: _Grid) -> _Grid:
        """How far outside each point is; exact on the edge, close to it near by."""
        across, up = (x - self.x) / self.wide, (y - self.y) / self.high
        size = np.hypot(across, up)
        slope = np.hypot(across / self.wide, up / self.high)
        return (size - 1) * size / np.maximum(slope, 1e-9)

    def svg(self) -> str:
        """The same in SVG, 100 wide."""
        return (
            f'<ellipse cx="{_hundred(self.x)}" cy="{_hundred(self.y)}" rx="{_hundred(self.wide)}" '
            f'ry="{_hundred(self.high)}" fill="{self.colour}"/>'
        )


@dataclass(frozen=True)
class Limb:
    """A thick line with round ends from (x, y) to (to_x, to_y)."""

    colour: str
    x: float
    y: float
    to_x: float
    to_y: float
    thick: float

    def distance(self, x: _Grid, y: _Grid) -> _Grid:
        """As of `Ellipse`."""
        along_x, along_y = self.to_x - self.x, self.to_y - self.y
        share = ((x - self.x) * along_x + (y - self.y) * along_y) / (along_x**2 + along_y**2)
        share = np.clip(share, 0, 1)
        return np.hypot(x - self.x - share * along_x, y - self.y - share * along_y) - self.thick / 2

    def svg(self) -> str:
        """As of `Ellipse`."""
        return (
            f'<line x1="{_hundred(self.x)}" y1="{_hundred(self.y)}" x2="{_hundred(self.to_x)}" '
            f'y2="{_hundred(self.to_y)}" stroke="{self.colour}" stroke-width="{_hundred(self.thick)}" '
            'stroke-linecap="round"/>'
        )


SHAPES: tuple[Ellipse | Limb, ...] = (
    Limb(TRUNK, 0.47, 0.72, 0.53, 0.58, 0.085),
    Limb(TRUNK, 0.53, 0.58, 0.47, 0.45, 0.065),
    Limb(TRUNK, 0.52, 0.57, 0.68, 0.50, 0.042),
    Limb(TRUNK, 0.49, 0.50, 0.34, 0.44, 0.042),
    Limb(TRUNK, 0.47, 0.45, 0.51, 0.32, 0.05),
    Ellipse(SHADE, 0.70, 0.49, 0.155, 0.062),
    Ellipse(LEAF, 0.70, 0.47, 0.140, 0.050),
    Ellipse(SHADE, 0.31, 0.42, 0.155, 0.066),
    Ellipse(LEAF, 0.31, 0.40, 0.140, 0.053),
    Ellipse(SHADE, 0.51, 0.29, 0.185, 0.088),
    Ellipse(LEAF, 0.51, 0.27, 0.168, 0.072),
    Limb(TRAY, 0.24, 0.745, 0.76, 0.745, 0.052),
    Limb(TRAY, 0.30, 0.785, 0.70, 0.785, 0.062),
    Limb(TRAY, 0.33, 0.83, 0.36, 0.83, 0.032),
    Limb(TRAY, 0.64, 0.83, 0.67, 0.83, 0.032),
)
_CORNER = 0.22


def svg(ground: bool = True) -> str:
    """The icon as SVG, with or without the paper behind it."""
    paper = f'<rect width="100" height="100" rx="{_hundred(_CORNER)}" fill="{PAPER}"/>' if ground else ""
    shapes = "".join(shape.svg() for shape in SHAPES)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{paper}{shapes}</svg>'


@cache
def png(size: int, maskable: bool = False) -> bytes:
    """The icon as PNG.

    Args:
        size: its width and height, in pixels.
        maskable: whether a launcher cuts its own shape out: paper to the edges, the tree within the safe middle.
    """
    middles = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(middles, middles)
    picture = np.empty((size, size, 4))
    picture[:] = (*_rgb(PAPER), 1.0)
    if maskable:
        x, y = (x - 0.5) / 0.8 + 0.5, (y - 0.5) / 0.8 + 0.5
    else:
        past_x, past_y = np.abs(x - 0.5) - 0.5 + _CORNER, np.abs(y - 0.5) - 0.5 + _CORNER
        corner = np.hypot(np.maximum(past_x, 0), np.maximum(past_y, 0)) - _CORNER
        picture[..., 3] = np.clip(0.5 - corner * size, 0, 1)
    for shape in SHAPES:
        share = np.clip(0.5 - shape.distance(x, y) * size, 0, 1)[..., None]
        picture[..., :3] += share * (np.array(_rgb(shape.colour)) - picture[..., :3])
    return _encoded((picture * 255).round().astype(np.uint8))


def _encoded(picture: NDArray[np.uint8]) -> bytes:
    """RGBA as a PNG file (ISO/IEC 15948): signature, IHDR, IDAT, IEND."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = picture.reshape(height, -1)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red / 255, green / 255, blue / 255


def _hundred(part: float) -> str:
    return f"{100 * part:.4g}"
