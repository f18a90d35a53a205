// SPDX-License-Identifier: GPL-3.0-or-later
// The page asks again and again, and shows what it is told as text only.
"use strict";

const LOOK_MS = 2000;
const MOST_PREVIEWS = 6;
const MOST_FRAMES = 120;
let open = "";
let shownPictures = "";

const $ = (id) => document.getElementById(id);

function made(name, text = "", className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const all = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, credentials: "same-origin" });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const place = document.createElement("td");
    if (cell instanceof Node) place.append(cell);
    else if (Array.isArray(cell)) { place.textContent = cell[0]; place.className = cell[1]; }
    else place.textContent = cell ?? "";
    line.append(place);
  }
  return line;
}

function button(text, work, className = "") {
  const element = made("button", text, className);
  element.addEventListener("click", async () => {
    try { await work(); await look(); } catch (error) { $("problem").textContent = error.message; }
  });
  return element;
}

function rowOfJob(job) {
  const waits = job.state === "QUEUED", runs = job.state === "RUNNING";
  let act = "";
  if (waits || runs) act = button("Cancel", () => ask(`api/job/${job.job}/cancel`, "POST"));
  if (job.state === "FAILED" || job.state === "CANCELLED") act = button("Requeue", () => ask(`api/job/${job.job}/requeue`, "POST"));
  const name = button(job.job.slice(0, 8), async () => { open = job.job; shownPictures = ""; }, "name");
  return row([
    name, [job.state, `state ${job.state}`], [waits ? String(job.queue_position) : "", "number"],
    [waits || runs ? duration(job.eta_s) : "", "number"],
    runs && job.stage ? `${job.stage} ${job.step}/${job.of}` : "", job.priority, job.model,
    [duration(Date.now() / 1000 - job.created_s), "number"], job.message ?? "", act,
  ]);
}

function figure(job, picture, caption) {
  const element = document.createElement("figure");
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = caption;
  image.src = `api/picture/${job}/${picture.sha}`;
  element.append(image, made("figcaption", caption));
  return element;
}

const over = new Map();

async function asked(job) {
  if (over.has(job.job)) return over.get(job.job);
  const one = await ask(`api/job/${job.job}`).catch(() => null);
  if (one && job.state === "DONE") over.set(job.job, one);
  return one;
}

async function showPreviews(jobs) {
  const some = jobs.filter((job) => job.state === "RUNNING" || job.state === "DONE").slice(0, MOST_PREVIEWS);
  const found = await Promise.all(some.map(asked));
  const figures = found.filter(Boolean).map((one) => [one.job.job, one.pictures.filter((p) => p.role === "preview").pop()]);
  const words = JSON.stringify(figures);
  if (words === $("previews").dataset.words) return;
  $("previews").dataset.words = words;
  $("previews").replaceChildren(...figures.filter(([, p]) => p).map(([job, p]) => figure(job, p, `${job.slice(0, 8)}, step ${p.step}`)));
}

async function showJob() {
  $("job").hidden = !open;
  if (!open) return;
  const one = await ask(`api/job/${open}`);
  $("job-name").textContent = `Job ${open}`;
  $("history").tBodies[0].replaceChildren(...one.history.reverse().map((event) => row([
    new Date(event.time_s * 1000).toLocaleTimeString(), event.kind,
    Object.entries(event.fields).map(([name, value]) => `${name} ${value}`).join(", "),
  ])));
  const frames = one.pictures.filter((p) => p.role === "frame");
  const shown = (frames.length ? frames : one.pictures).slice(-MOST_FRAMES);
  if (JSON.stringify(shown) === shownPictures) return;
  shownPictures = JSON.stringify(shown);
  $("pictures").replaceChildren(...shown.map((p) => figure(open, p, p.role === "frame" ? `frame ${p.index + 1}` : `step ${p.step}`)));
}

async function look() {
  const report = await ask("api/status");
  const totals = report.totals;
  const words = ["running", "waiting", "done", "failed", "unfetched"].filter((n) => totals[n]).map((n) => `${totals[n]} ${n}`);
  $("totals").textContent = [`up ${duration(report.uptime_s)}`, ...words, ...(totals.draining ? ["being drained"] : [])].join(" · ");
  $("workers").tBodies[0].replaceChildren(...report.workers.map((one) => row([
    one.name, [one.state, `state ${one.state}`], one.device_label || one.device, one.model, one.job.slice(0, 8),
    [one.memory_bytes ? `${Math.round(one.memory_bytes / 1048576)} MiB` : "", "number"], one.problem,
  ])));
  for (const name of over.keys()) if (!report.jobs.some((job) => job.job === name)) over.delete(name);
  $("jobs").tBodies[0].replaceChildren(...report.jobs.map(rowOfJob));
  await showPreviews(report.jobs);
  await showJob();
  $("problem").textContent = "";
}

async function turn() {
  try { if (!document.hidden) await look(); } catch (error) { $("problem").textContent = error.message; }
  setTimeout(turn, LOOK_MS);
}

turn();
