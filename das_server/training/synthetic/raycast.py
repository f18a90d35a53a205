# SPDX-License-Identifier: GPL-3.0-or-later
"""The ray caster: shaded images and exact first-frame positions of ellipsoids, boxes, cards, rooms and ground planes.

Space: the world is the first camera's (x right, y down, z forward, pixels' own axes), so that no axis is flipped.
An object is a unit shape with a pose: `world = rotation @ (scale * local) + position`, each `[T, objects, …]` f64.
"""

import math

import numpy as np
from numba import njit

SPHERE, BOX, CARD, ROOM, GROUND = range(5)
EPSILON = 1e-4
FAR = 1e9


@njit(cache=True, fastmath=True, inline="always")
def _texel(bank, index, u, v):
    size = bank.shape[1]
    x = (u - math.floor(u)) * size
    y = (v - math.floor(v)) * size
    x0, y0 = int(x), int(y)
    fx, fy = x - x0, y - y0
    x0, y0 = x0 % size, y0 % size
    x1, y1 = (x0 + 1) % size, (y0 + 1) % size
    wa, wb, wc, wd = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    r = (wa * bank[index, y0, x0, 0] + wb * bank[index, y0, x1, 0] + wc * bank[index, y1, x0, 0]
         + wd * bank[index, y1, x1, 0])
    g = (wa * bank[index, y0, x0, 1] + wb * bank[index, y0, x1, 1] + wc * bank[index, y1, x0, 1]
         + wd * bank[index, y1, x1, 1])
    b = (wa * bank[index, y0, x0, 2] + wb * bank[index, y0, x1, 2] + wc * bank[index, y1, x0, 2]
         + wd * bank[index, y1, x1, 2])
    return r, g, b


@njit(cache=True, fastmath=True)
def _slabs(ox, oy, oz, dx, dy, dz):
    near, far = -FAR, FAR
    for axis in range(3):
        o = ox if axis == 0 else (oy if axis == 1 else oz)
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        if abs(d) < 1e-9:
            d = 1e-9
        a, b = (-1.0 - o) / d, (1.0 - o) / d
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near, far


@njit(cache=True, fastmath=True)
def _hit(kind, ox, oy, oz, dx, dy, dz):
    """Ray against the unit shape in its own space; the distance along the ray, or -1."""
    if kind == SPHERE:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        under = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
        if under < 0:
            return -1.0
        t = (-b - math.sqrt(under)) / a
        return t if t > EPSILON else -1.0
    if kind == CARD or kind == GROUND:
        d = dz if kind == CARD else dy
        o = oz if kind == CARD else oy
        if abs(d) < 1e-9:
            return -1.0
        t = -o / d
        if t < EPSILON:
            return -1.0
        if kind == GROUND:
            return t if t < 60.0 else -1.0
        x, y = ox + t * dx, oy + t * dy
        angle = math.atan2(y, x)
        inside = math.sqrt(x * x + y * y) < 0.8 + 0.12 * math.sin(3 * angle) + 0.08 * math.sin(5 * angle + 1.0)
        return t if inside else -1.0
    near, far = _slabs(ox, oy, oz, dx, dy, dz)
    if near > far:
        return -1.0
    t = near if kind == BOX else far
    return t if t > EPSILON else -1.0


@njit(cache=True, fastmath=True)
def _cast(px, py, pz, wx, wy, wz, kinds, rotation, position, scale, shadow_only):
    """Nearest hit of a world ray: object index (-1: none), distance, local coordinates."""
    best, found, lx, ly, lz = FAR, -1, 0.0, 0.0, 0.0
    for i in range(len(kinds)):
        if shadow_only and kinds[i] >= ROOM:
            continue
        ax, ay, az = px - position[i, 0], py - position[i, 1], pz - position[i, 2]
        sx, sy, sz = 1.0 / scale[i, 0], 1.0 / scale[i, 1], 1.0 / scale[i, 2]
        ox = (rotation[i, 0, 0] * ax + rotation[i, 1, 0] * ay + rotation[i, 2, 0] * az) * sx
        oy = (rotation[i, 0, 1] * ax + rotation[i, 1, 1] * ay + rotation[i, 2, 1] * az) * sy
        oz = (rotation[i, 0, 2] * ax + rotation[i, 1, 2] * ay + rotation[i, 2, 2] * az) * sz
        dx = (rotation[i, 0, 0] * wx + rotation[i, 1, 0] * wy + rotation[i, 2, 0] * wz) * sx
        dy = (rotation[i, 0, 1] * wx + rotation[i, 1, 1] * wy + rotation[i, 2, 1] * wz) * sy
        dz = (rotation[i, 0, 2] * wx + rotation[i, 1, 2] * wy + rotation[i, 2, 2] * wz) * sz
        t = _hit(kinds[i], ox, oy, oz, dx, dy, dz)
        if 0 < t < best:
            best, found = t, i
            lx, ly, lz = ox + t * dx, oy + t * dy, oz + t * dz
            if shadow_only:
                return found, best, lx, ly, lz
    return found, best, lx, ly, lz


@njit(cache=True, fastmath=True)
def _surface(kind, lx, ly, lz):
    """Face 0..5, texture coordinates, and the local normal (of the unit shape)."""
    ax, ay, az = abs(lx), abs(ly), abs(lz)
    if kind == CARD:
        return 0, lx, ly, 0.0, 0.0, -1.0
    if kind == GROUND:
        return 0, lx, lz, 0.0, -1.0, 0.0
    if az >= ax and az >= ay:
        face, u, v = (0 if lz > 0 else 1), lx, ly
    elif ax >= ay:
        face, u, v = (2 if lx > 0 else 3), lz, ly
    else:
        face, u, v = (4 if ly > 0 else 5), lx, lz
    if kind == SPHERE:
        m = max(ax, max(ay, az)) + 1e-6
        return face, u / m, v / m, lx, ly, lz
    sign = -1.0 if kind == ROOM else 1.0
    nx = sign * (1.0 if face == 2 else (-1.0 if face == 3 else 0.0))
    ny = sign * (1.0 if face == 4 else (-1.0 if face == 5 else 0.0))
    nz = sign * (1.0 if face == 0 else (-1.0 if face == 1 else 0.0))
    return face, u, v, nx, ny, nz


@njit(cache=True, fastmath=True)
def _shade(i, kind, distance, px, py, pz, lx, ly, lz, kinds, rotation, position, scale, faces, tiling, bank, means,
           light, ambient, shadows):
    face, u, v, nx, ny, nz = _surface(kind, lx, ly, lz)
    index = faces[i, face]
    half = 0.5 * tiling[i]
    r, g, b = _texel(bank, index, u * half + 0.5, v * half + 0.5)
    if kind == GROUND:  # far ground turns to its mean colour, as a filtered texture would
        keep = math.exp(-0.06 * distance)
        r, g, b = (r * keep + means[index, 0] * (1 - keep), g * keep + means[index, 1] * (1 - keep),
                   b * keep + means[index, 2] * (1 - keep))
    if ambient >= 1.0:
        return r, g, b
    s, m = scale[i], rotation[i]
    nx, ny, nz = nx / s[0], ny / s[1], nz / s[2]
    gx = m[0, 0] * nx + m[0, 1] * ny + m[0, 2] * nz
    gy = m[1, 0] * nx + m[1, 1] * ny + m[1, 2] * nz
    gz = m[2, 0] * nx + m[2, 1] * ny + m[2, 2] * nz
    facing = (gx * light[0] + gy * light[1] + gz * light[2]) / (math.sqrt(gx * gx + gy * gy + gz * gz) + 1e-9)
    if kind == CARD:
        facing = abs(facing)
    if facing > 0 and shadows:
        blocker, _, _, _, _ = _cast(px + 0.01 * light[0], py + 0.01 * light[1], pz + 0.01 * light[2], light[0],
                                    light[1], light[2], kinds, rotation, position, scale, True)
        if blocker >= 0:
            facing = 0.0
    lit = ambient + (1.15 - ambient) * max(0.0, facing)
    return r * lit, g * lit, b * lit


@njit(cache=True, fastmath=True)
def render(size, focal, cameras, kinds, rotation, position, scale, faces, tiling, bank, means, lights, ambient,
           shadows, sky, samples):
    """Cast all frames.

    `size` (T, H, W); `focal` pixels; `cameras` `[T, 3, 4]` camera from world; `lights` `[T, 3]` unit, towards the
    light; `sky` `[2, 3]` colours up and down. Returns `rgb` `[T, H, W, 3]` u8 (box-filtered `samples` x `samples`),
    and at pixel centres `hit` `[T, H, W]` i32 object or -1, `local` `[T, H, W, 3]` f32, `depth` `[T, H, W]` f32.
    """
    frames, height, width = size
    rgb = np.empty((frames, height, width, 3), np.uint8)
    hit = np.empty((frames, height, width), np.int32)
    local = np.empty((frames, height, width, 3), np.float32)
    depth = np.empty((frames, height, width), np.float32)
    origin = np.empty(3)
    for t in range(frames):
        c = cameras[t]
        for k in range(3):
            origin[k] = -(c[0, k] * c[0, 3] + c[1, k] * c[1, 3] + c[2, k] * c[2, 3])
        for y in range(height):
            for x in range(width):
                red = green = blue = 0.0
                for sample in range(samples * samples + 1):
                    centre = sample == samples * samples
                    sx = 0.5 if centre else (sample % samples + 0.5) / samples
                    sy = 0.5 if centre else (sample // samples + 0.5) / samples
                    dx, dy = (x + sx - width / 2) / focal, (y + sy - height / 2) / focal
                    wx = c[0, 0] * dx + c[1, 0] * dy + c[2, 0]
                    wy = c[0, 1] * dx + c[1, 1] * dy + c[2, 1]
                    wz = c[0, 2] * dx + c[1, 2] * dy + c[2, 2]
                    i, d, lx, ly, lz = _cast(origin[0], origin[1], origin[2], wx, wy, wz, kinds, rotation[t],
                                             position[t], scale[t], False)
                    if centre:
                        hit[t, y, x], depth[t, y, x] = i, d
                        local[t, y, x, 0], local[t, y, x, 1], local[t, y, x, 2] = lx, ly, lz
                    elif i < 0:
                        q = min(1.0, max(0.0, 0.5 + 0.7 * wy / math.sqrt(wx * wx + wy * wy + wz * wz)))
                        red += sky[0, 0] * (1 - q) + sky[1, 0] * q
                        green += sky[0, 1] * (1 - q) + sky[1, 1] * q
                        blue += sky[0, 2] * (1 - q) + sky[1, 2] * q
                    else:
                        r, g, b = _shade(i, kinds[i], d, origin[0] + d * wx, origin[1] + d * wy, origin[2] + d * wz, lx,
                                         ly, lz, kinds, rotation[t], position[t], scale[t], faces, tiling, bank, means,
                                         lights[t], ambient, shadows)
                        red, green, blue = red + r, green + g, blue + b
                n = 255.0 / (samples * samples)
                rgb[t, y, x, 0] = int(min(255.0, max(0.0, red * n + 0.5)))
                rgb[t, y, x, 1] = int(min(255.0, max(0.0, green * n + 0.5)))
                rgb[t, y, x, 2] = int(min(255.0, max(0.0, blue * n + 0.5)))
    return rgb, hit, local, depth


@njit(cache=True, fastmath=True)
def first_frame_positions(size, focal, kinds, rotation, position, scale, hit, local):
    """Where each pixel's surface point was in frame 0, whose camera is the world's origin.

    Returns `xyz` `[T, H, W, 3]` f32 (pixel x, pixel y, depth; NaN without surface, behind the camera or outside the
    frame) and `visible` `[T, H, W]` bool: the point was the nearest one in its direction then.
    """
    frames, height, width = size
    xyz = np.full((frames, height, width, 3), np.nan, np.float32)
    visible = np.zeros((frames, height, width), np.bool_)
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                i = hit[t, y, x]
                if i < 0:
                    continue
                a = local[t, y, x, 0] * scale[0, i, 0]
                b = local[t, y, x, 1] * scale[0, i, 1]
                c = local[t, y, x, 2] * scale[0, i, 2]
                m = rotation[0, i]
                px = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c + position[0, i, 0]
                py = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c + position[0, i, 1]
                pz = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c + position[0, i, 2]
                if pz < 1e-2:
                    continue
                u, v = focal * px / pz + width / 2, focal * py / pz + height / 2
                if not (0 <= u < width and 0 <= v < height):
                    continue
                xyz[t, y, x, 0], xyz[t, y, x, 1], xyz[t, y, x, 2] = u, v, pz
                j, d, _, _, _ = _cast(0.0, 0.0, 0.0, px / pz, py / pz, 1.0, kinds, rotation[0], position[0],
                                      scale[0], False)
                visible[t, y, x] = j == i and abs(d - pz) < 0.01 * pz
    return xyz, visible
