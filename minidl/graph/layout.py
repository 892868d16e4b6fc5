"""A picture of an acyclic graph in layers: every edge runs downwards, and few of them cross.

The method of Sugiyama, Tagawa & Toda (1981) in four steps: put every box into a layer above those that it
points to; let long edges pass through each layer as a thin box of their own; order every layer so that few
edges cross; move the boxes so that edges run straight.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
SWEEPS = 8  # up and down, for the order and for the places
ACROSS, DOWN = 22.0, 18.0  # the distance between neighbours in a layer, and between layers
PASSING = 8.0  # the width of an edge that passes through a layer
STEADY = 50.0  # how much more than a leaf a box weighs that has something above it
PORTS = 18.0  # the distance between edges that end at the same box


@dataclass(frozen=True)
class Layout:
    """The centre of each box, the corners that each edge goes through, and the size of the whole."""

    centres: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


def layout(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Places for boxes of these (width, height) and edges (from, to) between them, without a circle."""
    depth = _layers(len(sizes), edges)
    boxes = list(sizes)
    chains = []  # the boxes that each edge goes through
    for source, target in edges:
        passed = range(depth[source] + 1, depth[target])
        chains.append([source, *range(len(boxes), len(boxes) + len(passed)), target])
        boxes += [(PASSING, 0.0)] * len(passed)
        depth += passed
    below: list[list[int]] = [[] for _ in boxes]
    above: list[list[int]] = [[] for _ in boxes]
    for chain in chains:
        for a, b in itertools.pairwise(chain):
            below[a].append(b)
            above[b].append(a)
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for box, d in enumerate(depth):
        layers[d].append(box)
    layers = _ordered(layers, above, below)
    x = _places(layers, above, below, [width for width, _ in boxes])
    left = min((x[i] - boxes[i][0] / 2 for i in range(len(boxes))), default=0.0)
    x = [place - left for place in x]
    y, height = [0.0] * len(boxes), 0.0
    for layer in layers:
        tallest = max(boxes[i][1] for i in layer)
        for i in layer:
            y[i] = height + tallest / 2
            if i >= len(sizes):
                boxes[i] = (PASSING, tallest)  # it passes through the whole layer
        height += tallest + DOWN
    routes = _routes(chains, x, y, boxes)
    width = max((x[i] + boxes[i][0] / 2 for i in range(len(boxes))), default=0.0)
    return Layout(list(zip(x, y, strict=True))[: len(sizes)], routes, width, max(height - DOWN, 0.0))


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each box, 0 at the top: as low as those that it points to allow."""
    sources: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count  # edges to boxes that have no layer yet
    for source, target in edges:
        sources[target].append(source)
        waiting[source] += 1
    height = [0] * count  # above the bottom
    ready = [box for box in range(count) if not waiting[box]]
    for box in ready:
        for source in sources[box]:
            height[source] = max(height[source], height[box] + 1)
            waiting[source] -= 1
            if not waiting[source]:
                ready.append(source)
    if len(ready) < count:
        raise ValueError("the graph has a circle")
    top = max(height, default=0)
    return [top - h for h in height]


def _ordered(layers: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    """Each layer sorted by where its neighbours are, the layers before and after in turn; the best of all."""
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(SWEEPS):
        layers = [list(layer) for layer in layers]
        neighbours = below if sweep % 2 else above
        for previous, layer in itertools.pairwise(layers[::-1] if sweep % 2 else layers):
            place = {box: i for i, box in enumerate(previous)}
            mean = {}
            for i, box in enumerate(layer):
                near = [place[n] for n in neighbours[box]]
                mean[box] = sum(near) / len(near) if near else float(i)
            layer.sort(key=mean.__getitem__)
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: list[list[int]], below: list[list[int]]) -> int:
    """How many pairs of edges between neighbouring layers cross."""
    count = 0
    for layer, following in itertools.pairwise(layers):
        place = {box: i for i, box in enumerate(following)}
        ends: list[int] = []  # of the edges so far, sorted
        for box in layer:
            targets = sorted(place[b] for b in below[box])
            count += sum(len(ends) - bisect.bisect_right(ends, t) for t in targets)
            for t in targets:
                bisect.insort(ends, t)
    return count


def _places(
    layers: list[list[int]], above: list[list[int]], below: list[list[int]], widths: Sequence[float]
) -> list[float]:
    """The horizontal centre of each box: near the mean of its neighbours, and clear of those beside it."""
    x = [0.0] * len(widths)
    weights = [STEADY if sources else 1.0 for sources in above]  # leaves make way for what is computed
    for sweep in range(2 * SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = []
            for box in layer:
                total = sum(weights[n] for n in neighbours[box])
                wanted.append(sum(weights[n] * x[n] for n in neighbours[box]) / total if total else x[box])
            places = _apart(layer, wanted, [weights[box] for box in layer], widths)
            for box, place in zip(layer, places, strict=True):
                x[box] = place
    return x


def _apart(
    layer: Sequence[int], wanted: Sequence[float], weights: Sequence[float], widths: Sequence[float]
) -> list[float]:
    """The places nearest to the wanted ones (weighted least squares) where the boxes of a layer do not touch.

    Less the room that the boxes before it need, each place must be no less than the one before: a monotone
    regression, solved by pooling neighbours that are in the wrong order.
    """
    room = [0.0]
    for a, b in itertools.pairwise(layer):
        room.append(room[-1] + (widths[a] + widths[b]) / 2 + ACROSS)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many boxes
    for want, weight, offset in zip(wanted, weights, room, strict=True):
        mean, count = want - offset, 1
        while pools and pools[-1][0] > mean:
            other, more, boxes = pools.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, count = weight + more, count + boxes
        pools.append((mean, weight, count))
    places = itertools.chain.from_iterable([mean] * count for mean, _, count in pools)
    return [place + offset for place, offset in zip(places, room, strict=True)]


def _routes(
    chains: Sequence[Sequence[int]],
    x: Sequence[float],
    y: Sequence[float],
    boxes: Sequence[tuple[float, float]],
) -> list[list[Point]]:
    """The corners of each edge, from the lower side of its first box to the upper side of its last."""
    leaving: dict[int, list[tuple[float, int]]] = {}
    arriving: dict[int, list[tuple[float, int]]] = {}
    for i, chain in enumerate(chains):
        leaving.setdefault(chain[0], []).append((x[chain[1]], i))
        arriving.setdefault(chain[-1], []).append((x[chain[-2]], i))
    start: dict[int, float] = {}
    end: dict[int, float] = {}
    for ports, found in ((leaving, start), (arriving, end)):
        for box, edges in ports.items():
            step = min(PORTS, boxes[box][0] / (len(edges) + 1))
            for k, (_, i) in enumerate(sorted(edges)):
                found[i] = x[box] + (k - (len(edges) - 1) / 2) * step
    routes = []
    for i, chain in enumerate(chains):
        route = [(start[i], y[chain[0]] + boxes[chain[0]][1] / 2)]
        for box in chain[1:-1]:
            route += [(x[box], y[box] - boxes[box][1] / 2), (x[box], y[box] + boxes[box][1] / 2)]
        routes.append([*route, (end[i], y[chain[-1]] - boxes[chain[-1]][1] / 2)])
    return routes
