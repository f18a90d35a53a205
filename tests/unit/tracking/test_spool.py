# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry on disk: what was written comes back in any order, and a disk that refuses is told in one sentence."""

import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from das_blender_addon.errors import StorageError
from das_blender_addon.tracking.geometry import GeometrySequence
from das_blender_addon.tracking.spool import GEOMETRY, VERTICES, SpoolWriter, open_spool
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, look_at, sequence, sphere

COUNT = 5
NAN = np.nan


def cameras(count=COUNT):
    return camera_path([look_at((0.1 * index, -6, 1), (0, 0, 0)) for index in range(count)], clip_end=80.0)


def frames_of(count=COUNT, vertices=7) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.normal(size=(vertices, 3)).astype(np.float32) for _ in range(count)]


def written(folder, frames, *, order=None, triangles=((0, 1, 2),)) -> GeometrySequence:
    spool = SpoolWriter(folder)
    for vertices in frames:
        spool.add(vertices)
    order = np.arange(max(len(vertices) for vertices in frames)) if order is None else np.array(order)
    numbers = tuple(range(10, 10 + len(frames)))
    return spool.finish(np.array(triangles, np.int32), order.astype(np.int64), cameras(len(frames)), numbers)


def test_everything_comes_back_as_it_was(tmp_path):
    frames = frames_of()
    for geometry in (written(tmp_path, frames), open_spool(tmp_path)):
        np.testing.assert_array_equal(geometry.vertices, np.stack(frames))
        np.testing.assert_array_equal(geometry.triangles, [[0, 1, 2]])
        assert (geometry.triangles.dtype, np.asarray(geometry.vertices).dtype) == (np.int32, np.float32)
        assert geometry.frames == (10, 11, 12, 13, 14) and geometry.num_frames == COUNT
        for name in ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end"):
            np.testing.assert_array_equal(getattr(geometry.cameras, name), getattr(cameras(), name))
        assert (geometry.cameras.width, geometry.cameras.height) == (96, 64)


def test_part_of_it_is_read_from_the_same_file(tmp_path):
    frames = frames_of()
    vertices = written(tmp_path, frames).vertices
    part = vertices.part([3, 1])
    assert part.shape == (2, 7, 3) and len(part) == 2
    np.testing.assert_array_equal(part[0], frames[3])
    np.testing.assert_array_equal(part[1], frames[1])
    np.testing.assert_array_equal(vertices.part(range(2, 5)).part([1])[0], frames[3])


def test_frames_are_read_in_any_order_and_more_than_once(tmp_path):
    frames = frames_of()
    vertices = written(tmp_path, frames).vertices
    assert vertices.shape == (COUNT, 7, 3) and len(vertices) == COUNT and vertices.ndim == 3
    for index in (4, 0, 2, 2, -1, -COUNT):
        np.testing.assert_array_equal(vertices[index], frames[index])
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"no frame {index} in a shot of 5"):
            vertices[index]


def test_frame_that_was_read_can_be_written_to_without_harm(tmp_path):
    frames = frames_of()
    vertices = written(tmp_path, frames).vertices
    vertices[1][:] = 0.0
    np.testing.assert_array_equal(vertices[1], frames[1])


def test_vertices_that_are_not_there_yet_are_nan(tmp_path):
    """Later frames have more vertices; a hidden one is NaN within a frame."""
    short, long = frames_of(1, 3)[0], frames_of(1, 5)[0]
    long[1] = NAN
    vertices = np.asarray(written(tmp_path, [np.zeros((0, 3), np.float32), short, long]).vertices)
    assert np.isnan(vertices[0]).all() and np.isnan(vertices[1, 3:]).all()
    np.testing.assert_array_equal(vertices[1, :3], short)
    np.testing.assert_array_equal(vertices[2], long)


def test_vertices_come_in_the_order_asked_for(tmp_path):
    short, long = frames_of(1, 3)[0], frames_of(1, 5)[0]
    order = [4, 0, 2, 1, 3]
    vertices = written(tmp_path, [short, long], order=order).vertices
    np.testing.assert_array_equal(vertices[1], long[order])
    np.testing.assert_array_equal(vertices[0], [[NAN] * 3, short[0], short[2], short[1], [NAN] * 3])


def test_frames_that_stand_still_share_a_block(tmp_path):
    still, other = frames_of(2, 100)
    still[7] = NAN
    vertices = written(tmp_path, [still, still.copy(), still.copy(), other, still]).vertices
    assert (tmp_path / VERTICES).stat().st_size == 3 * still.nbytes
    for index, expected in enumerate((still, still, still, other, still)):
        np.testing.assert_array_equal(vertices[index], expected)


def test_frame_with_one_vertex_more_is_no_repetition(tmp_path):
    short = frames_of(1, 3)[0]
    long = np.concatenate([short, [[1.0, 2.0, 3.0]]]).astype(np.float32)
    vertices = written(tmp_path, [short, long, short]).vertices
    np.testing.assert_array_equal(vertices[1], long)
    assert np.isnan(vertices[2][3]).all()


def test_tracking_video_of_a_spool_is_that_of_the_arrays(tmp_path):
    points, faces = sphere((0, 0, 0), 1.0)
    moved = np.stack([points + (0.1 * index, 0, 0) for index in range(COUNT)])
    whole = sequence([(moved, faces), box((2, 1, 0), (1, 1, 1))], cameras())
    spooled = written(tmp_path, list(whole.vertices), triangles=whole.triangles)
    expected, video = render_tracking_video(whole), render_tracking_video(spooled)
    np.testing.assert_array_equal(video.video, expected.video)
    np.testing.assert_array_equal(video.first_frame_xy, expected.first_frame_xy)


def test_empty_shot_has_no_vertices(tmp_path):
    nothing = np.zeros((0, 3), np.float32)
    geometry = written(tmp_path, [nothing, nothing], triangles=np.zeros((0, 3), np.int32))
    assert geometry.vertices.shape == (2, 0, 3) and geometry.vertices[1].shape == (0, 3)


# ── Disks that refuse, files that are damaged ───────────────────────────────────────────────────────────────────────


def test_spool_that_was_not_finished_is_none(tmp_path):
    spool = SpoolWriter(tmp_path)
    spool.add(frames_of(1)[0])
    spool.close()
    with pytest.raises(StorageError, match="cannot be read .* start again"):
        open_spool(tmp_path)


@pytest.mark.parametrize("name", [GEOMETRY, VERTICES])
@pytest.mark.parametrize("harm", ["missing", "empty", "truncated"])
def test_damaged_spool_is_told_in_one_sentence(tmp_path, name, harm):
    written(tmp_path, frames_of())
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink() if harm == "missing" else path.write_bytes(content[: len(content) // 2 if harm == "truncated" else 0])
    with pytest.raises(StorageError, match="cannot be read .* start again") as refused:
        open_spool(tmp_path).vertices[COUNT - 1]
    assert str(tmp_path) in refused.value.message and "\n" not in refused.value.message


def test_folder_that_is_not_there_is_told(tmp_path):
    spool = SpoolWriter(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot be written into .*nowhere .*free some space"):
        spool.add(frames_of(1)[0])
    spool.close()


@contextmanager
def small_files():
    """Files of this process may have 10 kB: the system refuses as a full disk does, and says so by an error.  No
    fixture: before it ends pytest says how the test went, perhaps into a file that is longer.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def write_all(folder, vertices: int):
    spool = SpoolWriter(folder)
    try:
        for frame in frames_of(COUNT, vertices):
            spool.add(frame)
        spool.finish(np.zeros((0, 3), np.int32), np.arange(vertices), cameras(), tuple(range(COUNT)))
    finally:
        spool.close()


@pytest.mark.parametrize("vertices", [100_000, 600, 200])
def test_full_disk_is_told_whatever_does_not_fit(tmp_path, vertices):
    """A frame; several frames that wait in a buffer; the last of them."""
    with small_files():
        with pytest.raises(StorageError, match="free some space in the temporary folder"):
            write_all(tmp_path, vertices)
        with pytest.raises(StorageError):
            open_spool(tmp_path)
        write_all(tmp_path, 20)


def test_a_frame_whose_one_span_begins_later_lacks_the_first_vertices(tmp_path):
    writer, block = SpoolWriter(tmp_path), np.arange(9, dtype=np.float32).reshape(3, 3)
    writer.add(block)
    writer.add(block + 1, np.array([[2, 5]]))
    read = writer.finish(np.array([[0, 1, 2]], np.int32), np.arange(3), cameras(2), (1, 2)).vertices
    np.testing.assert_array_equal(read[0], block)
    np.testing.assert_array_equal(read[1], [[np.nan] * 3, [np.nan] * 3, block[0] + 1])
