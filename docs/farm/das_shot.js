// SPDX-License-Identifier: GPL-3.0-or-later
// A Flamenco 3 job type: one shot of Diffusion as Shader, its windows made side by side, its frames written at the end.
//
// Put this file into the folder "scripts" beside the Flamenco Manager.  Every worker needs Blender with the extension,
// and sees the .blend file, the cache and the output under the same names.  The GPUs are the das-server's: a task here
// prepares its windows, waits for the server and composes; so several tasks may run on one worker.
//
// A task ends with the exit status of `das render` (docs/guides/headless.md); Flamenco tries a failed one again, and
// what is in the cache by then is not made twice.

const JOB_TYPE = {
    label: "Diffusion as Shader",
    description: "Make the windows of a shot side by side, then write its frames",
    settings: [
        { key: "blendfile", type: "string", required: true, visible: "web",
          description: "The shot's file" },
        { key: "scene", type: "string", required: false, visible: "submission", eval: "C.scene.name",
          description: "Scene of the file; empty for the one that it was saved with" },
        { key: "server", type: "string", required: true, default: "tcp://127.0.0.1:5599", visible: "submission",
          description: "Address of the das-server" },
        { key: "cache", type: "string", subtype: "dir_path", required: true, visible: "submission",
          description: "Folder that all workers share: first frames, windows, takes" },
        { key: "render_output_path", type: "string", subtype: "dir_path", required: true, visible: "submission",
          description: "Folder of the finished frames" },
        { key: "parts", type: "int32", default: 4, visible: "submission", propargs: { min: 1, max: 1000 },
          description: "Tasks that the shot's windows are shared out to; 1 for a model that needs them in order" },
        { key: "frames", type: "string", required: false, default: "", visible: "submission",
          description: "Such as 1-240; empty for the scene's range" },
    ],
};

function compileJob(job) {
    const settings = job.settings;
    const parts = Math.max(1, settings.parts || 1);

    const whole = author.Task("frames", "blender");
    whole.addCommand(render(settings, ["--output", settings.render_output_path]));
    if (parts > 1) {
        for (let part = 1; part <= parts; part++) {
            const task = author.Task(`windows-${part}-of-${parts}`, "blender");
            task.addCommand(render(settings, ["--windows", `${part}/${parts}`]));
            job.addTask(task);
            whole.addDependency(task);
        }
    }
    job.addTask(whole);
}

// One `das render`.  {blender} is the variable of the Manager that says where Blender is on each system.
function render(settings, more) {
    const args = ["--online-mode", "--command", "das", "render", settings.blendfile];
    args.push("--server", settings.server, "--cache", settings.cache);
    if (settings.scene) {
        args.push("--scene", settings.scene);
    }
    if (settings.frames) {
        args.push("--frames", settings.frames);
    }
    return author.Command("exec", { exe: "{blender}", args: args.concat(more) });
}
