// SPDX-License-Identifier: GPL-3.0-or-later
// What the Flamenco Manager gives a job type script, as far as ours uses it: node flamenco.js SCRIPT SETTINGS
// prints the job type's label and settings and the compiled tasks as JSON.
const fs = require("fs");
const vm = require("vm");

const jobs = [];
const author = {
    Task: (name, type) => ({
        name, type, commands: [], dependencies: [],
        addCommand(command) { this.commands.push(command); },
        addDependency(task) { this.dependencies.push(task.name); },
    }),
    Command: (name, parameters) => ({ name, parameters }),
};
const job = { settings: JSON.parse(process.argv[3]), addTask: (task) => jobs.push(task) };
const context = vm.createContext({ author, job });
vm.runInContext(fs.readFileSync(process.argv[2], "utf-8") + "\ncompileJob(job); this.type = JOB_TYPE;", context);
console.log(JSON.stringify({ type: context.type, tasks: jobs }));
