# SPDX-License-Identifier: GPL-3.0-or-later
"""*Queue*: the jobs of this window that wait for the running one, their order, and those that failed."""

from __future__ import annotations

import bpy
from bpy.props import IntProperty

from ..errors import DasError, JobCancelled
from ..jobs.noted import noted_takes
from ..take.last_reports import keeping
from . import session
from .drawing import alert, say
from .job_operators import begin, redraw
from .kept_jobs import operator_of
from .panel import RenderPanel
from .words import register_classes, said, translated, unregister_classes

WORDS_SHOWN = 60


class _OfPlace:
    """Does something with the job at ``place`` of one of the queue's lists."""

    bl_options = {"REGISTER", "INTERNAL"}

    def execute(self, context):
        jobs = self.jobs()
        if not 0 <= self.place < len(jobs):
            self.report({"WARNING"}, said("It waits no more"))
            return {"CANCELLED"}
        try:
            self.act(context, jobs[self.place])
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        redraw()
        return {"FINISHED"}

    def jobs(self):
        return session.queue.waiting


class DAS_OT_queue_move(_OfPlace, bpy.types.Operator):
    bl_idname = "das.queue_move"
    bl_label = "Move"
    bl_description = "Let the job start earlier or later than its neighbour"
    place: IntProperty(options={"SKIP_SAVE"})
    by: IntProperty(options={"SKIP_SAVE"})

    def act(self, _context, _job):
        session.queue.move(self.place, self.by)


class DAS_OT_queue_cancel(_OfPlace, bpy.types.Operator):
    bl_idname = "das.queue_cancel"
    bl_label = "Remove from Queue"
    bl_description = "The job is not made; its copy of the file goes"
    place: IntProperty(options={"SKIP_SAVE"})

    def act(self, _context, _job):
        session.queue.waiting.pop(self.place).drop()


class DAS_OT_queue_retry(_OfPlace, bpy.types.Operator):
    bl_idname = "das.queue_retry"
    bl_label = "Try Again"
    bl_description = "Make the failed takes with the settings that they had, of the scene as it is now"
    place: IntProperty(options={"SKIP_SAVE"})

    def jobs(self):
        return session.queue.failed

    def act(self, context, job):
        scene = bpy.data.scenes.get(job.scene) if job.file == session.files_opened() else None
        if scene is None:
            raise JobCancelled(said("{scene} is not in the open file", scene=job.scene))
        operator = operator_of(job.note.kind)
        recipe, note = noted_takes(scene, job.note.kind, job.note.settings, on_report=keeping(scene))
        session.queue.failed.pop(self.place)
        job.note.forget()  # the new one takes its place
        begin(operator, scene, recipe, note)


class DAS_OT_queue_dismiss(_OfPlace, bpy.types.Operator):
    bl_idname = "das.queue_dismiss"
    bl_label = "Dismiss"
    bl_description = "List the failed job no more"
    place: IntProperty(options={"SKIP_SAVE"})

    def jobs(self):
        return session.queue.failed

    def act(self, _context, job):
        session.queue.failed.pop(self.place)
        if job.note is not None:
            job.note.forget()


class DAS_OT_queue_pause(bpy.types.Operator):
    bl_idname = "das.queue_pause"
    bl_label = "Pause"
    bl_description = "Start no further job until it is pressed again; the running one goes on"
    bl_options = {"REGISTER"}

    def execute(self, context):
        session.queue.is_paused = not session.queue.is_paused
        session.start_next()
        redraw()
        return {"FINISHED"}


class DAS_PT_queue(RenderPanel, bpy.types.Panel):
    """Shown while something runs, waits or has failed."""

    bl_label = "Queue"
    bl_order = 5
    bl_parent_id = "DAS_PT_shot"

    @classmethod
    def poll(cls, context):
        queue = session.queue
        is_used = queue.waiting or queue.failed or queue.is_paused or session.running_job() is not None
        return bool(is_used) and super().poll(context)

    def draw(self, context):
        layout, queue, running = self.layout, session.queue, session.running_job()
        row = layout.row(align=True)
        words = translated(running.name) if running is not None else said("Nothing runs")
        row.label(text=_line(words, running.about if running is not None else ""), translate=False, icon="PLAY")
        if running is not None:
            row.operator("das.cancel", text="", icon="CANCEL")
        row.operator("das.queue_pause", text="", icon="PAUSE", depress=queue.is_paused)
        if queue.is_paused:
            say(layout, "Paused: no further job starts", "INFO")
        column = layout.column(align=True)
        for place, job in enumerate(queue.waiting):
            row = column.row(align=True)
            row.label(text=_line(f"{place + 1}. {translated(job.name)}", job.about), translate=False)
            for by, icon in ((-1, "TRIA_UP"), (1, "TRIA_DOWN")):
                move = row.operator("das.queue_move", text="", icon=icon)
                move.place, move.by = place, by
            row.operator("das.queue_cancel", text="", icon="X").place = place
        for place, job in enumerate(queue.failed):
            alert(layout, _line(said("{name} failed", name=translated(job.name)), job.about) + f": {job.words}")
            row = layout.row(align=True)
            row.operator("das.queue_retry", icon="FILE_REFRESH").place = place
            row.operator("das.queue_dismiss", text="", icon="X").place = place


def _line(name: str, about: str) -> str:
    line = f"{name} · {about}" if about else name
    return line if len(line) <= WORDS_SHOWN else f"{line[: WORDS_SHOWN - 1]}…"


CLASSES = (
    DAS_OT_queue_move,
    DAS_OT_queue_cancel,
    DAS_OT_queue_retry,
    DAS_OT_queue_dismiss,
    DAS_OT_queue_pause,
    DAS_PT_queue,
)


def register():
    """Register buttons and panel."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
