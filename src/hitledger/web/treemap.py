"""Sections as areas: a squarified treemap (Bruls, Huizing, van Wijk, 2000), in per cent of its drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300.0, 100.0
"""How wide and high the drawing is taken to be; areas stay true at any other."""
NAME_WIDTH, NAME_HEIGHT = 6.0, 12.0
COUNT_WIDTH, COUNT_HEIGHT = 9.0, 20.0
"""Per cent that an area must have to hold its name, and its count below it."""


@dataclass(frozen=True)
class Tile:
    """One area: the number of its value, its place, and whether its name and its count fit in."""

    index: int
    x: str
    y: str
    width: str
    height: str
    has_name: bool
    has_count: bool


@dataclass
class _Room:
    x: float
    y: float
    width: float
    height: float


def tiles_of(values: Sequence[float]) -> list[Tile]:
    """Return an area for each value, which come in descending order; those of nothing are left out."""
    values = [value for value in values if value > 0]
    total = sum(values)
    areas = [value / total * WIDTH * HEIGHT for value in values]
    room = _Room(0.0, 0.0, WIDTH, HEIGHT)
    tiles: list[Tile] = []
    while len(tiles) < len(areas):
        side = min(room.width, room.height)
        row = [areas[len(tiles)]]
        for area in areas[len(tiles) + 1 :]:
            if _worst([*row, area], side) > _worst(row, side):
                break
            row.append(area)
        tiles += _lay(row, room, len(tiles))
    return tiles


def _worst(row: list[float], side: float) -> float:
    """Return how far from a square the worst area of a row is."""
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * min(row)))


def _lay(row: list[float], room: _Room, first: int) -> list[Tile]:
    """Put a row of areas along the shorter side of the room, and take its place from the room."""
    tiles, total = [], sum(row)
    if room.width >= room.height:
        thick, at = total / room.height, room.y
        for offset, area in enumerate(row):
            tiles.append(_tile(first + offset, room.x, at, thick, area / thick))
            at += area / thick
        room.x, room.width = room.x + thick, max(1e-9, room.width - thick)
    else:
        thick, at = total / room.width, room.x
        for offset, area in enumerate(row):
            tiles.append(_tile(first + offset, at, room.y, area / thick, thick))
            at += area / thick
        room.y, room.height = room.y + thick, max(1e-9, room.height - thick)
    return tiles


def _tile(index: int, x: float, y: float, width: float, height: float) -> Tile:
    wide, high = 100 * width / WIDTH, 100 * height / HEIGHT
    return Tile(
        index=index,
        x=f"{100 * x / WIDTH:.2f}%",
        y=f"{100 * y / HEIGHT:.2f}%",
        width=f"{wide:.2f}%",
        height=f"{high:.2f}%",
        has_name=wide >= NAME_WIDTH and high >= NAME_HEIGHT,
        has_count=wide >= COUNT_WIDTH and high >= COUNT_HEIGHT,
    )
