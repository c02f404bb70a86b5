"""Faults of a UI graph's layout, from its JSON alone: what page_layout.py measures in the page.

The curves are restated here from the page's own code, and nodes are at least as high as the page's
newer look draws them (measured in 1.58).
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

VIEW, FILL, PADDING, TITLE = (1920, 1080), 0.75, 10, 30  # the page fits a graph into 75 % of it
MEASURED = {  # heights in the newer look
    "InkstoneApplyControlNet": 242,
    "InkstoneDecode": 78,
    "InkstoneDenoise": 278,
    "InkstoneEmptyLatent": 114,
    "InkstoneEncodeEdit": 342,
    "InkstoneEncodeLayers": 290,
    "InkstoneEncodePrompt": 214,
    "InkstoneImageToLatent": 134,
    "InkstoneInpaint": 210,
    "InkstoneLoadAll": 182,
    "InkstoneLoadControlNet": 114,
    "InkstoneLoadDiffusionModel": 142,
    "InkstoneLoadTextEncoder": 114,
    "InkstoneLoadVAE": 114,
    "InkstoneLoraLoader": 254,
    "InkstonePadForOutpaint": 246,
    "InkstoneSplitLayers": 78,
    "InkstoneStitch": 78,
    "MaskComposite": 138,
    "SolidMask": 118,
}
Box = tuple[float, float, float, float]


def boxes(ui: dict[str, Any]) -> dict[int, Box]:
    """left, top, right, bottom of each node, with its title, in the higher look."""
    answer = {}
    for node in ui["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        height = max(height, MEASURED.get(node["type"], 0))
        answer[node["id"]] = (x, y - TITLE, x + width, y + height)
    return answer


def zoom(ui: dict[str, Any]) -> float:
    """At which the page opens a template."""
    left, top, right, bottom = zip(*boxes(ui).values())
    sides = max(right) - min(left) + 2 * PADDING, max(bottom) - min(top) + 2 * PADDING
    return min(FILL * room / side for room, side in zip(VIEW, sides))


def under(ui: dict[str, Any]) -> float:
    """The share of all wires' length that lies under nodes at neither of their ends."""
    places, nodes = boxes(ui), {node["id"]: node for node in ui["nodes"]}
    bends = {bend["id"]: bend for bend in ui["extra"].get("reroutes", ())}
    last = {x["id"]: x["parentId"] for x in ui["extra"].get("linkExtensions", ())}
    length = hidden = 0.0
    for number, origin, slot, target, at, _ in ui["links"]:
        stops, bend = [], bends.get(last.get(number))
        while bend:
            assert number in bend["linkIds"]
            stops.insert(0, tuple(bend["pos"]))
            bend = bends.get(bend.get("parentId"))
        a, b = nodes[origin], nodes[target]
        start = (a["pos"][0] + a["size"][0], a["pos"][1] + 14 + 20 * slot)
        line = _line([start, *stops, (b["pos"][0], b["pos"][1] + 14 + 20 * at)])
        others = [box for key, box in places.items() if key not in (origin, target)]
        for (x, y), (to, level) in zip(line, line[1:]):
            part, across, down = math.dist((x, y), (to, level)), (x + to) / 2, (y + level) / 2
            length += part
            if any(b[0] < across < b[2] and b[1] < down < b[3] for b in others):
                hidden += part
    return hidden / length if length else 0.0


def _line(stops: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of a wire: Bezier curves that leave and enter sockets level, and cross a bend halfway
    between the directions to both of its neighbours.
    """
    ways = [0.0]
    for before, at, after in zip(stops, stops[1:], stops[2:]):
        coming = math.atan2(at[1] - before[1], at[0] - before[0])
        half = (coming - math.atan2(after[1] - at[1], after[0] - at[0])) / 2
        ways.append(coming - (half + math.pi if abs(half) > math.pi / 2 else half))
    ways.append(0.0)
    points = [stops[0]]
    for n, (a, b) in enumerate(zip(stops, stops[1:])):
        quarter = math.dist(a, b) / 4
        out = max(30, quarter) if n == 0 else min(80, quarter)
        into = max(30, quarter) if n == len(stops) - 2 else min(80, quarter)
        c = (a[0] + out * math.cos(ways[n]), a[1] + out * math.sin(ways[n]))
        d = (b[0] - into * math.cos(ways[n + 1]), b[1] - into * math.sin(ways[n + 1]))
        for k in range(1, 41):
            t, u = k / 40, 1 - k / 40
            weights = (u**3, 3 * u * u * t, 3 * u * t * t, t**3)
            pairs = list(zip(weights, (a, c, d, b)))
            points.append(tuple(sum(w * p[i] for w, p in pairs) for i in (0, 1)))
    return points


def faults(ui: dict[str, Any], most: float = 0.03) -> list[str]:
    """Wires under foreign nodes, nodes on nodes, nodes that leave their frame or have none."""
    share = under(ui)
    answer = [f"{share:.1%} of the wires under foreign nodes"] if share > most else []
    names = {node["id"]: f"{node['id']} {node['type']}" for node in ui["nodes"]}
    places = boxes(ui)
    for (i, a), (j, b) in combinations(places.items(), 2):
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            answer.append(f"{names[i]} on {names[j]}")
    framed = set()
    for group in ui["groups"]:
        left, top, width, height = group["bounding"]
        right, bottom = left + width, top + height
        for key, box in places.items():
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if left <= x <= right and top <= y <= bottom:
                framed.add(key)
                if box[0] < left or box[2] > right or box[1] < top or box[3] > bottom:
                    answer.append(f"{names[key]} leaves {group['title']!r}")
    notes = {node["id"] for node in ui["nodes"] if node["type"] == "MarkdownNote"}
    answer += [f"{names[key]} is in no frame" for key in places.keys() - framed - notes]
    return answer
