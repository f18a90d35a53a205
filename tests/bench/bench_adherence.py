# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a model follow the animation?  Six fixed scenes, each rendered as a take and measured; two tables per model: how
far surfaces are off, and how far the camera and the motion of the made clips are from the true ones.

Run: ``python tests/bench/bench_adherence.py [--server ADDRESS] [--model NAME] [--seeds 1,2] [--only walk]
[--sheets FOLDER]`` in an environment with Blender as a module.  Without a server one with das-preview is started; for
the full model name a server on a GPU and ``--model das-cogvideox-5b --size 720x480``.  The tables are for
docs/benchmarks.md; the sheets, one of each scene, to be looked at.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("BLENDER_USER_RESOURCES", tempfile.mkdtemp(prefix="das-blender-"))

import bpy  # noqa: E402
import numpy as np  # noqa: E402

from tests.support.adherence_scenes import SIZE, SUITE, VISITOR, build_suite_scene  # noqa: E402
from tests.support.clip_measures import camera_error, motion_error  # noqa: E402
from tests.support.server import running_server  # noqa: E402

SAMPLES, TRUE_SAMPLES, SHEET_COLUMNS = 8, 32, 7
HEAD = (
    "| scene | frames (windows, key pictures) | shown by key pictures, of that textured | error, px: mean | 95 % | "
    "of the height | off or lost | lost | flicker beyond the animation's | colour | seams | s |"
)

CONTROL_HEAD = (
    "| scene | camera goes, turns | rotation off, °: mean, most | translation off, units: mean, most | of its way | "
    "frames told | PSNR, dB | way from frame to frame, px | end-point error, px | of the true render |"
)


def measured(api, one, server: str, cache: Path, seed: int, options) -> tuple[dict, object, float]:
    """(report, take, seconds) of the scene ``one``."""
    scene = build_suite_scene(one)
    scene.das.first_frame_engine, scene.das.first_frame_samples = "CYCLES", SAMPLES
    chosen = {} if one.keys is None else {"key_pictures": one.keys}
    size = tuple(int(side) for side in options.size.split("x"))
    scene.render.resolution_x, scene.render.resolution_y = size
    began = time.perf_counter()
    take = api.render_take(
        scene, server=server, folder=cache, seed=seed, model=options.model or None, size=size, measure=True, **chosen
    )
    report = api.adherence(scene, take, server=server, folder=cache)
    return report, take, time.perf_counter() - began


def row(name: str, reports: list[dict], take, seconds: float) -> str:
    """The means over the seeds."""

    def mean(of) -> float:
        known = [value for value in map(of, reports) if value is not None]
        return float(np.mean(known)) if known else float("nan")

    first = reports[0]
    beyond = mean(lambda r: None if r["flicker"] is None else max(0.0, r["flicker"] - r["flicker_expected"]))
    seams = [seam["difference"] for report in reports for seam in report["seams"]]
    error = mean(lambda r: r["mean_px"])
    keys = len(take.report["key_pictures"])
    return (
        f"| {name} | {len(take.frames)} ({len(first['windows'])}, {keys}) | {first['seen']:.0%}, "
        f"{mean(lambda r: r['counted']):.0%} | {error:.2f} | {mean(lambda r: r['p95_px']):.2f} | "
        f"{100.0 * error / first['height']:.2f} % | {mean(lambda r: r['off']):.1%} | {mean(lambda r: r['lost']):.1%} | "
        f"{beyond:.1f} | {mean(lambda r: r['colour']):.1f} | "
        f"{f'{np.mean(seams):.1f}' if seams else '–'} | {seconds:.0f} |"
    )


@contextmanager
def quiet():
    """Nothing that Blender says of a render goes among the tables."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        if os.name == "posix":  # what C still holds back
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def true_clip(scene, frames, folder: Path) -> np.ndarray:
    """u8 [T,H,W,3]: what Cycles renders of the scene at ``frames``."""
    from das_blender_addon.protocol.png import decode_png

    before = scene.render.engine, scene.frame_current
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", TRUE_SAMPLES, False
    scene.render.image_settings.file_format = "PNG"
    pictures = []
    for frame in frames:
        scene.frame_set(frame)
        scene.render.filepath = str(folder / f"{frame:04d}.png")
        with quiet():
            bpy.ops.render.render(write_still=True)
        pictures.append(decode_png(Path(scene.render.filepath).read_bytes()))
    scene.render.engine = before[0]
    scene.frame_set(before[1])
    return np.stack(pictures)


def write_rows(file: Path, take, true: Path | None) -> None:
    """Frames of the model's clip as the picture ``file``, and below them, as Cycles renders them, those in ``true``."""
    from das_blender_addon.protocol.png import encode_png
    from das_blender_addon.take.comparing import contact_sheet

    rows = [take.model_frames] + ([] if true is None else [tuple(sorted(true.glob("*.png")))])
    sheets = [contact_sheet(row, columns=SHEET_COLUMNS, most=SHEET_COLUMNS) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_png(np.concatenate(sheets)))


def control_row(name: str, scene, take, folder: Path) -> str:
    """The camera and the motion of the take's clip, of the frames that the model made, against the true ones."""
    from das_blender_addon.jobs.scripting import exported_geometry
    from das_blender_addon.protocol.png import decode_png

    made = tuple(take.report["model_frame_numbers"])
    size = tuple(take.report["model_size"])
    true = true_clip(scene, made, folder)
    files = [take.model_frames[take.frame_numbers.index(frame)] for frame in made]
    clip = np.stack([decode_png(file.read_bytes()) for file in files])
    keys = [made.index(key["frame"]) for key in take.report["key_pictures"] if key["frame"] in made]
    with exported_geometry(scene, made, size, None, None, None) as geometry:
        camera = camera_error(clip, true, geometry)
        motion, floor = (motion_error(one, true, geometry, keys) for one in (clip, true))
    told = camera.frames[0] > 0
    errors = camera.rotation_deg, camera.translation
    off = [f"{part.mean():.3f}, {part.max():.3f}" if told else "–" for part in errors]
    share = f"{camera.translation.mean() / camera.path:.2%}" if told and camera.path else "–"
    return (
        f"| {name} | {camera.path:.2f} units, {camera.turn_deg:.1f}° | {off[0]} | {off[1]} | {share} | "
        f"{camera.frames[0]} of {camera.frames[1]} | {motion.psnr_db:.1f} | {motion.way_px:.2f} | "
        f"{motion.epe_px:.2f} | {floor.epe_px:.2f} |"
    )


def reappearance(report: dict) -> str:
    """How the thing that leaves and returns looks, before and after: levels from its prediction."""
    frames = [one for one in report["frames"]]
    seen = [frame["objects"].get(VISITOR, {"points": 0}) for frame in frames]
    gone = [place for place, one in enumerate(seen) if one["points"] < 50]
    if not gone:
        return "The visitor never left."
    before, after = seen[: gone[0]], [one for one in seen[gone[-1] + 1 :]]
    if not before or not after:
        return "The visitor was not seen again."
    told = [(np.mean([one["colour"] for one in part]), _px(part)) for part in (before, after)]
    return (
        f"{VISITOR}: {told[0][0]:.1f} levels and {told[0][1]} from its prediction before it leaves, "
        f"{told[1][0]:.1f} levels and {told[1][1]} after it is back."
    )


def _px(part: list[dict]) -> str:
    known = [one["mean_px"] for one in part if one["mean_px"] is not None]
    return f"{np.mean(known):.2f} px" if known else "– px"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--size", default=f"{SIZE[0]}x{SIZE[1]}")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--no-control", action="store_true", help="leave the second table out, and its true renders")
    parser.add_argument("--sheets", default="", metavar="FOLDER", help="write a contact sheet of each scene there")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in SUITE])
    options = parser.parse_args()
    import addon_utils  # found once bpy is there

    addon_utils.enable("das_blender_addon", default_set=True)
    from das_blender_addon import api

    seeds = [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory(prefix="das-bench-") as folder:
        environment = {"DAS_SERVER_THREADS": "0", "OMP_NUM_THREADS": str(os.cpu_count())}
        own = running_server(Path(folder) / "state", environment=environment)
        with nullcontext(SimpleNamespace(address=options.server)) if options.server else own as server:
            notes, control, began = [], [], time.perf_counter()
            print(f"{HEAD}\n|{'---|' * HEAD.count(' |')}", flush=True)
            for one in SUITE:
                if options.only and one.name not in options.only:
                    continue
                cache = Path(folder) / one.name
                with quiet():
                    made = [measured(api, one, server.address, cache, seed, options) for seed in seeds]
                reports = [report for report, _, _ in made]
                print(row(one.name, reports, made[0][1], sum(part[2] for part in made)), flush=True)
                true = None
                if not (one.cuts or options.no_control):  # across a cut nothing flows from frame to frame
                    true = Path(folder) / f"true {one.name}"
                    control.append(control_row(one.name, bpy.context.scene, made[0][1], true))
                if options.sheets:
                    write_rows(Path(options.sheets) / f"{one.name}.png", made[0][1], true)
                if any(thing["name"] == VISITOR for thing in reports[0]["objects"]):
                    notes.append(reappearance(reports[0]))
            load = " ".join(Path("/proc/loadavg").read_text().split()[:3]) if Path("/proc/loadavg").exists() else "?"
            model = made[0][1].report["model"]
            about = f"{model}, {options.size}, seeds {options.seeds}, Blender {bpy.app.version_string}"
            if control:
                print(f"\n{CONTROL_HEAD}\n|{'---|' * CONTROL_HEAD.count(' |')}\n" + "\n".join(control))
            print("\n" + "\n".join([*notes, f"{about}; {time.perf_counter() - began:.0f} s, load {load}."]))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # Blender as a module may hang in its own exit code
