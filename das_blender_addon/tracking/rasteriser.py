# SPDX-License-Identifier: GPL-3.0-or-later
"""Which triangle does each pixel see: a z-buffered rasteriser in numpy, sampled at pixel centres, not anti-aliased.

The result is a buffer of triangle indices; colours and positions are computed later, for the visible pixels only
(`surface`).  Both sides of a triangle are drawn.

Exactness.  Projected corners are snapped to 1/1024 pixel and every edge function is evaluated in integers, so a pixel
centre on the border of two triangles belongs to exactly one of them (the top-left rule) and a closed mesh has no cracks
and no double pixels.  Depth is compared as 1 / depth, which is linear in the picture (for an orthographic camera as the
distance before the farthest point, which is linear there); equal depths go to the triangle with the lower index.

Speed.  Triangles outside the picture and those whose box holds no pixel centre are dropped first; where there are many,
near ones are drawn first, and those that are `hidden` left out.  Small ones are tested against all pixels of their box,
in groups of equal box size; larger ones are turned into horizontal spans by exact integer division.  Nothing loops over
triangles in Python, but over the largest, and all temporaries are bounded by the chunk sizes below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .clipping import clip_triangles
from .hidden import Hidden, near_first
from .projection import BEYOND, Pinhole
from .snapping import GUARD_PX, HALF, SUBPIXEL, SUBPIXEL_BITS, in_view, snapped
from .spans import FLOAT_CORNERS, cut_span, cut_span_in_floats, depth_along_spans, expand, pieces
from .z_buffer import Buffer, fill_rows, keep_nearest

#: Buffer value of a pixel that sees no surface.
NO_TRIANGLE = -1

#: Boxes up to this many pixels a side are tested pixel by pixel; their edge functions fit int32 (5·1024)²·2 < 2**31.
_SMALL_BOX_PX = 4
_TRIANGLES_PER_CHUNK = 1 << 15
_ROWS_PER_CHUNK = 1 << 14
_CANDIDATES_PER_CHUNK = 1 << 14
_LARGE_PX = 1 << 11
"""Area of a triangle from which on it is worth a few calls of its own for some of its rows."""
_LEAST_CHUNK = 1 << 13
"""Triangles that are drawn together, at least: of fewer small ones numpy's calls are most of the time.  Of the demo's
10 000 in a picture of 192×128 with 2048 together 6.8 ms, with this 4.8; at 720×480 17.1 and 12.6 ms."""
_MANY = 1 << 11
"""Triangles from which on the near ones are drawn first, and what they hide is left out."""
#: Rank of triangle 0 in the z-buffer's keys; later triangles rank lower.
_LAST_RANK = 0xFFFFFFFF


def rasterise(
    points: np.ndarray,
    triangles: np.ndarray,
    camera: Pinhole,
    *,
    check: Callable[[], None] | None = None,
) -> np.ndarray:
    """Find the triangle that each pixel centre sees first.

    ``points`` [N,3] f64, optical space, Blender units; ``triangles`` [M,3] integer.  Triangles with a non-finite corner
    or without area in the picture are not drawn.  ``check`` is called between chunks; what it raises passes through.
    Returns [H,W] i32: an index into ``triangles``, `NO_TRIANGLE` where the pixel sees nothing.
    """
    keys = np.zeros(camera.width * camera.height, dtype=np.uint64)
    draw(keys, points, triangles, camera, check=check)
    return triangles_of(keys).reshape(camera.height, camera.width)


def triangles_of(keys: np.ndarray) -> np.ndarray:
    """[P] i32: the triangles that the keys [P] u64 of pixels stand for, `NO_TRIANGLE` for 0."""
    return (~keys).astype(np.uint32).view(np.int32)  # the last rank minus the low half; of 0 that is -1


def draw(
    keys: np.ndarray,
    points: np.ndarray,
    triangles: np.ndarray,
    camera: Pinhole,
    *,
    which: np.ndarray | None = None,
    beyond: np.ndarray | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Enter triangles into ``keys`` [H·W] u64, the z-buffer: 0 where nothing is; the larger is nearer.

    ``which`` [K], increasing: the triangles to draw, None for all.  ``beyond`` [H·W] u64: only what lies behind these
    keys is drawn.  The others: of `rasterise`.
    """
    count = len(triangles) if which is None else len(which)
    found = snapped(points, camera)
    x, y, inverse_depth, drawable, finite, outside = found
    all_drawable = bool(drawable.all())
    ends = (0.0, 0.0)
    if camera.is_orthographic:
        ends = _ends(points, finite)
        inverse_depth = _nearness(points[:, 2], ends)
    hidden = None
    if count >= _MANY:
        which, outside = near_first(found, inverse_depth, triangles, which), None
        count = len(which)
        hidden = Hidden(keys, camera.width, camera.height, count)
    buffer = Buffer(keys, beyond, hidden)
    step = min(_TRIANGLES_PER_CHUNK, max(_LEAST_CHUNK, count // 4))
    for start in range(0, count, step):
        if check is not None:
            check()
        piece = slice(start, start + step)
        if which is None:
            chunk, numbers = triangles[piece], np.arange(start, min(start + step, count))
        else:
            numbers = which[piece].astype(np.int64)
            chunk = triangles.take(numbers, axis=0)
        corners = np.ascontiguousarray(chunk.T)
        if outside is not None:
            kept = in_view(outside, corners)
            corners, numbers = corners.take(kept, axis=1), numbers.take(kept)
        whole = None if all_drawable else drawable.take(corners).all(axis=0)
        if whole is not None and not whole.all():
            crossing = np.flatnonzero(~whole & finite.take(corners).all(axis=0))
            _draw_clipped(buffer, points, corners.take(crossing, axis=1), numbers.take(crossing), camera, ends)
            kept = np.flatnonzero(whole)
            corners, numbers = corners.take(kept, axis=1), numbers.take(kept)
        _draw(buffer, x.take(corners), y.take(corners), inverse_depth, corners, numbers, camera)


def _ends(points: np.ndarray, finite: np.ndarray) -> tuple[float, float]:
    """The depths of the farthest of the ``finite`` points that are no background's, and of those; 0 for none."""
    depth = points[finite, 2]
    end = float(depth.max(initial=0.0))
    if end < BEYOND:
        return end, 0.0
    return float(depth[depth < BEYOND].max(initial=0.0)), end


def _nearness(depth: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Of points that an orthographic camera sees, see `_ends`: linear in ``depth``, that of backgrounds the least."""
    end, last = ends
    if not last:
        return end - depth
    return np.where(depth >= BEYOND, 0.5 * (1.0 - depth / last), end + 1.0 - depth)


def _draw_clipped(buffer, points, crossing, numbers, camera, ends) -> None:
    """Cut the triangles ``numbers`` [K], with the corners ``crossing`` [3,K], at the near plane and the guard band,
    then draw what is left.  ``ends``: see `_ends`.
    """
    if not numbers.size:
        return
    corners, owners = clip_triangles(points[crossing.T], numbers, _clip_planes(camera))
    corners = corners.reshape(-1, 3)
    # Cut points may lie a rounding error outside; pull them back so that nothing overflows.
    depth = np.maximum(corners[:, 2], camera.clip_start)
    snapped = []
    for axis in (0, 1):
        across = corners[:, axis] if camera.is_orthographic else corners[:, axis] / depth
        pixel = camera.principal_px[axis] + camera.focal_px[axis] * across
        snapped.append(np.rint(np.clip(pixel, -GUARD_PX, GUARD_PX) * SUBPIXEL).astype(np.int32).reshape(-1, 3).T)
    columns = np.arange(len(corners)).reshape(-1, 3).T
    nearness = _nearness(depth, ends) if camera.is_orthographic else 1.0 / depth
    _draw(buffer, *snapped, nearness, columns, owners, camera)


def _clip_planes(camera: Pinhole) -> np.ndarray:
    """Near plane and the four guard planes [5,4]: ±(principal·z + focal·x) ≤ guard·z, in optical space; without z for
    an orthographic camera.
    """
    planes = [[0.0, 0.0, 1.0, -camera.clip_start]]
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            plane = [0.0, 0.0, 0.0, 0.0]
            plane[3 if camera.is_orthographic else 2] = GUARD_PX + sign * camera.principal_px[axis]
            plane[axis] = sign * camera.focal_px[axis]
            planes.append(plane)
    return np.array(planes)


def _draw(buffer, xs, ys, inverse_depth, corner_ids, owners, camera) -> None:
    """Draw triangles given by snapped corners.

    ``xs``, ``ys`` [3,K] i32; ``inverse_depth`` [·] f64 looked up by ``corner_ids`` [3,K]; ``owners`` [K]: the
    triangle's index.
    """
    x_low, x_high = np.minimum.reduce(xs), np.maximum.reduce(xs)
    y_low, y_high = np.minimum.reduce(ys), np.maximum.reduce(ys)
    # The pixel centres inside the box: first and last column and row, cut to the picture.
    left = np.maximum((x_low + (HALF - 1)) >> SUBPIXEL_BITS, 0)
    right = np.minimum((x_high - HALF) >> SUBPIXEL_BITS, camera.width - 1)
    top = np.maximum((y_low + (HALF - 1)) >> SUBPIXEL_BITS, 0)
    bottom = np.minimum((y_high - HALF) >> SUBPIXEL_BITS, camera.height - 1)
    hit = np.flatnonzero((left <= right) & (top <= bottom))
    if not hit.size:
        return
    limit = _SMALL_BOX_PX * SUBPIXEL
    small = np.maximum(x_high - x_low, y_high - y_low).take(hit) < limit
    few, many = hit[small], hit[~small]
    sides = left, right, top, bottom
    if buffer.hidden is not None:
        many = many[_has_area(xs.take(many, axis=1), ys.take(many, axis=1))]
        few, many = (_not_hidden(buffer.hidden, some, sides, inverse_depth, corner_ids) for some in (few, many))
    # In the order of their boxes' sizes, so that those of one size are neighbours.
    shape = (bottom - top).take(few) * _SMALL_BOX_PX + (right - left).take(few)
    few = few[np.argsort(shape.astype(np.uint8), kind="stable")]
    for selected, draw in ((few, _draw_small), (many, _draw_spans)):
        if selected.size:
            draw(
                buffer,
                xs.take(selected, axis=1),
                ys.take(selected, axis=1),
                inverse_depth.take(corner_ids.take(selected, axis=1)),
                np.uint64(_LAST_RANK) - owners.take(selected).astype(np.uint64),
                tuple(side.take(selected) for side in sides),
                camera.width,
            )
    if buffer.hidden is not None:
        buffer.hidden.drawn(len(few) + len(many))


def _has_area(xs, ys) -> np.ndarray:
    """[K] bool: the triangles with the snapped corners [3,K] i32 have an area."""
    x0, x1, x2 = xs.astype(np.int64)
    y0, y1, y2 = ys.astype(np.int64)
    return (x1 - x0) * (y2 - y0) != (y1 - y0) * (x2 - x0)


def _not_hidden(hidden: Hidden, which, sides, inverse_depth, corner_ids) -> np.ndarray:
    """Those of ``which`` [K] that nothing nearer hides; the others: of `_draw`."""
    nearest = np.maximum.reduce(inverse_depth.take(corner_ids.take(which, axis=1)))
    seen = hidden.seen(*(side.take(which) for side in sides), nearest)
    return which if seen is None else which[seen]


def _oriented(xs, ys, depths, dtype):
    """Edge functions of triangles, oriented so that the inside is positive.

    Returns ``area`` [K] (twice the area, sub-pixels²; 0 for triangles without any), three edges ``(slope_x, slope_y, x,
    y, bias)`` of [K] arrays and the gradient of 1/depth per sub-pixel in x and y.  A pixel centre p is inside where
    ``slope_x·(p_x − x) + slope_y·(p_y − y) + bias ≥ 0`` for all edges; ``bias`` is 0 on top and left edges, else −1.
    """
    x0, x1, x2 = (x.astype(dtype, copy=False) for x in xs)
    y0, y1, y2 = (y.astype(dtype, copy=False) for y in ys)
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    sign = np.sign(area)
    edges = []
    for xa, ya, xb, yb in ((x0, y0, x1, y1), (x1, y1, x2, y2), (x2, y2, x0, y0)):
        slope_x = (ya - yb) * sign
        slope_y = (xb - xa) * sign
        top_left = (slope_x > 0) | ((slope_x == 0) & (slope_y > 0))
        edges.append((slope_x, slope_y, xa, ya, top_left.astype(dtype) - 1))
    per_area = 1.0 / np.maximum(area * sign, 1)
    (a01, b01, *_), _, (a20, b20, *_) = edges
    rise1 = (depths[1] - depths[0]) * per_area
    rise2 = (depths[2] - depths[0]) * per_area
    # 1/depth as a plane: weight of corner 1 is the edge 2→0, of corner 2 the edge 0→1.
    gradient_x = a20 * rise1 + a01 * rise2
    gradient_y = b20 * rise1 + b01 * rise2
    return area, edges, gradient_x, gradient_y


def _draw_small(buffer, xs, ys, depths, ranks, box, width) -> None:
    """Test every pixel of the boxes, group by group of equal box size, by which they are sorted."""
    left, right, top, bottom = box
    shape = (bottom - top) * _SMALL_BOX_PX + (right - left)
    bounds = np.searchsorted(shape, np.arange(_SMALL_BOX_PX**2 + 1))
    _, edges, gradient_x, gradient_y = _oriented(xs, ys, depths, np.int32)  # without area nothing is inside an edge
    centre_x = (left << SUBPIXEL_BITS) + HALF
    centre_y = (top << SUBPIXEL_BITS) + HALF
    corner_pixel = top.astype(np.int64) * width + left
    corner_depth = depths[0] + gradient_x * (centre_x - xs[0]) + gradient_y * (centre_y - ys[0])
    starts = [
        (
            slope_x * (centre_x - x) + slope_y * (centre_y - y) + bias,
            slope_x << SUBPIXEL_BITS,
            slope_y << SUBPIXEL_BITS,
        )
        for slope_x, slope_y, x, y, bias in edges
    ]
    for code in range(_SMALL_BOX_PX**2):
        group = slice(bounds[code], bounds[code + 1])
        count = group.stop - group.start
        if not count:
            continue
        num_rows, num_columns = code // _SMALL_BOX_PX + 1, code % _SMALL_BOX_PX + 1
        steps_x = np.arange(num_columns, dtype=np.int32)[None, :, None]
        steps_y = np.arange(num_rows, dtype=np.int32)[:, None, None]
        inside = None
        for start, step_x, step_y in starts:
            value = (start[group] + steps_x * step_x[group]) + steps_y * step_y[group]
            inside = value if inside is None else np.bitwise_or(inside, value, out=inside)
        found = np.flatnonzero(inside.reshape(-1) >= 0)
        offset = found // count
        which = found - offset * count
        which += group.start
        row = offset // num_columns
        column = offset - row * num_columns
        depth = corner_depth.take(which) + SUBPIXEL * (
            gradient_x.take(which) * column + gradient_y.take(which) * row
        )
        row *= width
        row += column
        keep_nearest(buffer, corner_pixel.take(which) + row, depth, ranks.take(which))


def _draw_spans(buffer, xs, ys, depths, ranks, box, width) -> None:
    """Cut every pixel row of a triangle to the exact span between its edges."""
    left, right, top, bottom = (side.astype(np.int64) for side in box)
    area, edges, gradient_x, gradient_y = _oriented(xs, ys, depths, np.int64)
    # Values at the centre of column 0 of the first row, and their steps per column and per row.
    centre_y = (top << SUBPIXEL_BITS) + HALF
    origins = [slope_x * (HALF - x) + slope_y * (centre_y - y) + bias for slope_x, slope_y, x, y, bias in edges]
    origin_depth = depths[0] + gradient_x * (HALF - xs[0]) + gradient_y * (centre_y - ys[0])
    origin_pixel = top * width
    steps_x = [slope_x << SUBPIXEL_BITS for slope_x, *_ in edges]
    steps_y = [slope_y << SUBPIXEL_BITS for _, slope_y, *_ in edges]
    gradient_x, gradient_y = gradient_x * SUBPIXEL, gradient_y * SUBPIXEL
    cut = cut_span
    if max(-xs.min(), xs.max(), -ys.min(), ys.max()) < FLOAT_CORNERS:
        cut = cut_span_in_floats
        left, right, *origins = (values.astype(np.float64) for values in (left, right, *origins))
        steps_x, steps_y = [-step.astype(np.float64) for step in steps_x], [step.astype(np.float64) for step in steps_y]
    heights = np.where(area != 0, bottom - top + 1, 0)
    is_large = np.abs(area) >= 2 * _LARGE_PX * SUBPIXEL**2
    low, high = np.minimum.reduce(depths), np.maximum.reduce(depths)
    for first, last in pieces(heights, _ROWS_PER_CHUNK):
        member, row = expand(heights[first:last])
        member += first
        begin, end = left.take(member), right.take(member)
        for origin, step_x, step_y in zip(origins, steps_x, steps_y, strict=True):
            value = step_y.take(member)
            value *= row
            value += origin.take(member)
            cut(begin, end, value, step_x.take(member))
        filled = np.flatnonzero(begin <= end)
        member, row = member.take(filled), row.take(filled)
        begin, end = (values.take(filled).astype(np.int64, copy=False) for values in (begin, end))
        lengths = end - begin + 1
        depth, depth_step = depth_along_spans(
            origin_depth.take(member) + gradient_y.take(member) * row,
            gradient_x.take(member),
            begin,
            lengths,
            low.take(member),
            high.take(member),
        )
        pixel = origin_pixel.take(member) + row * width + begin
        rank = ranks.take(member)
        large = is_large.take(member)
        if large.any():
            spans = (pixel, lengths, depth, depth_step, rank)
            fill_rows(buffer, member[large], row[large], *(values[large] for values in spans), width)
            pixel, lengths, depth, depth_step, rank = (values[~large] for values in spans)
        for start, stop in pieces(lengths, _CANDIDATES_PER_CHUNK):
            span, column = expand(lengths[start:stop])
            span += start
            step = depth_step.take(span)
            step *= column
            step += depth.take(span)
            column += pixel.take(span)
            keep_nearest(buffer, column, step, rank.take(span))
