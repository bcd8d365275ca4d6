"""Sets of point pairs: which of two points is closer. DIW and DA-2K."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from depth_anything_jax.data.benchmarks.base import (
    BenchmarkError,
    Card,
    Item,
    PathLike,
    Reader,
    Record,
    wrong_layout,
)


class _Pairs(Reader):
    """Items whose `extra` is (points, closer, category)."""

    def _label(self, item: Item, image: np.ndarray) -> Record:
        points = np.array(item.extra[0], np.int64).reshape(-1, 2, 2)
        height, width = image.shape[:2]
        rows, columns = points[..., 0], points[..., 1]
        if np.min(points) < 0 or np.max(rows) >= height or np.max(columns) >= width:
            raise BenchmarkError(
                f"{self.name}: {item.key} is {height}x{width} and has points at (row, column) "
                f"{points.reshape(-1, 2).tolist()}: rows and columns swapped, or another image"
            )
        return {
            "points": points,
            "closer": np.array(item.extra[1], np.int64),
            "category": item.extra[2],
        }


class DIW(_Pairs):
    """Depth in the Wild, test: one pair of points in each image."""

    name = "diw"
    card = Card(
        title="DIW (Depth in the Wild)",
        split="test",
        images="those of DIW_test.csv, some 74,000",
        units="pairs of points, counted from 1; '>' means that the first is farther",
        layout="DIW_test/NAME.thumb below the folder; DIW_Annotations/DIW_test.csv (or "
        "DIW_test.csv): a line with the image's path, then a line y1,x1,y2,x2,RELATION,…",
        where="the Depth in the Wild page of the University of Michigan (DIW_test.tar.gz and "
        "DIW_Annotations_splitted.tar.gz)",
        licence="none stated",
        size="some 2 GB",
        citation="Chen, Fu, Yang, Deng: Single-image depth perception in the wild, NIPS 2016",
        traps=(
            "WHDR is the share of pairs answered wrongly; whether a tie counts as wrong is the "
            "scorer's choice.",
            "A reader that swaps rows and columns gives plausible scores: here a point outside its "
            "image is an error.",
        ),
        unverified=(
            "y before x and counting from 1: from public readers, which agree in most cases",
            "size",
        ),
    )

    def __init__(self, folder: PathLike, *, partial: bool = False):
        super().__init__(folder)
        names = ("DIW_Annotations/DIW_test.csv", "DIW_test.csv")
        table = next((n for n in names if os.path.exists(self._path(n))), None)
        if table is None:
            raise wrong_layout(self.name, self.root, " or ".join(names))
        with open(self._path(table)) as file:
            lines = [line.strip() for line in file if line.strip()]
        if len(lines) % 2:
            raise BenchmarkError(
                f"{self.name}: {table} has {len(lines)} lines, two for each image are even"
            )
        items = []
        for path, annotation in zip(lines[::2], lines[1::2], strict=True):
            image = path.removeprefix("./")
            pair, closer = self._parse(annotation, f"{table}, {image}")
            items.append(Item(image, image, extra=([pair], [closer], "")))
        self._settle(items, looked_for="images", expected=len(items), partial=partial)

    def _parse(self, line: str, where: str) -> tuple[list[list[int]], int]:
        values = line.split(",")
        try:
            y1, x1, y2, x2 = (int(float(v)) - 1 for v in values[:4])
            closer = {">": 1, "<": 0}[values[4].strip()]
        except (ValueError, KeyError, IndexError) as error:
            raise BenchmarkError(
                f"{self.name}: {where}: {line!r} is not y1,x1,y2,x2,> or <,…"
            ) from error
        return [[y1, x1], [y2, x2]], closer


class DA2K(_Pairs):
    """DA-2K: pairs of points in high-resolution images of eight kinds."""

    name = "da2k"
    categories = (
        "indoor", "outdoor", "non_real", "transparent_reflective", "adverse_style", "aerial",
        "underwater", "object",
    )  # fmt: skip
    card = Card(
        title="DA-2K",
        split="all",
        images="those of annotations.json, some 1,000, with some 2,000 pairs",
        units="pairs of points [row, column] in the image's pixels",
        layout="annotations.json and images/KIND/NAME.jpg",
        where="the data set depth-anything/DA-2K of the Hugging Face hub",
        licence="Apache-2.0",
        size="under 1 GB",
        citation="Yang et al.: Depth Anything V2, NeurIPS 2024",
        traps=(
            "point1 is the closer one in every pair: a predictor that always says point1 scores "
            "100 %. Swap points before you trust a scorer.",
            "Points are [row, column], not [x, y].",
            "A tie is wrong; metric depth compares the other way round than disparity.",
        ),
        unverified=("licence", "size"),
    )

    def __init__(self, folder: PathLike, *, partial: bool = False):
        super().__init__(folder)
        path = self._path("annotations.json")
        if not os.path.exists(path):
            raise wrong_layout(self.name, self.root, "annotations.json")
        with open(path) as file:
            annotations = json.load(file)
        items = []
        for image, pairs in annotations.items():
            category = image.split("/")[1] if image.count("/") > 1 else ""
            if category not in self.categories:
                raise BenchmarkError(
                    f"{self.name}: {image} lies in none of images/{{{','.join(self.categories)}}}"
                )
            read = [self._pair(pair, image) for pair in pairs]
            points, closer = [p for p, _ in read], [c for _, c in read]
            items.append(Item(image, image, scene=category, extra=(points, closer, category)))
        self._settle(items, looked_for="images", expected=len(items), partial=partial)

    def _pair(self, pair: Mapping, image: str) -> tuple[list[list[int]], int]:
        try:
            points = [[int(v) for v in pair[p]] for p in ("point1", "point2")]
            closer = ("point1", "point2").index(pair["closer_point"])
        except (KeyError, ValueError, TypeError) as error:
            raise BenchmarkError(
                f"{self.name}: {image}: {pair} has not point1, point2 and closer_point"
            ) from error
        return points, closer
