"use strict";
// The page: asks the server about a picture, shows each labelset's answer, and builds merged labelsets.

const $ = (id) => document.getElementById(id);
let about = null;     // of the run: its kind, what it answers, examples
let shown = null;     // the picture: its key, size, decoded photo
let panels = [];      // those of the labelsets, and last the merged one
let merged = new Map();  // label -> ["a.car", ...] or "rest"
let chosen = null;    // the merged label that clicks add to
let asked = 0;        // counts requests about pictures, so that a late answer does not overwrite a newer one
let merges = 0;       // and those about merged labelsets
let timer = null;

function make(tag, options = {}, ...children) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

function say(id, text) {
  $(id).textContent = text; $(id).hidden = !text && id !== "state";
  if (text && id === "error") $(id).scrollIntoView({ block: "nearest" });  // who drops a picture below does not see what is above
}

async function ask(path, query, body) {
  let answer;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(query)}`, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("the server does not answer: is `densemtmd demo --web` still running in its terminal?");
  }
  if (answer.headers.get("Content-Type") !== "application/json") return answer;
  const told = await answer.json();
  if (told.error) throw new Error(told.error);
  return told;
}

async function begin() {
  const told = await ask("runs", {});
  about = { most_bytes: told.most_bytes };
  $("run").replaceChildren(...told.runs.map((name) => make("option", { value: name, textContent: name })));
  await pick();
}

async function pick() {
  say("error", ""); say("state", "opening the run …");
  clear();
  const run = $("run").value, most = about.most_bytes;
  try {
    about = { ...await ask("about", { run }), most_bytes: most };
  } catch (error) { say("state", ""); return say("error", error.message); }
  say("state", about.kind === "keypoints" ? "This run finds a hand's keypoints in depth pictures, as NYU or ICVL store them." : "");
  const examples = about.examples.map((name, n) => make("button", { type: "button", textContent: name, onclick: () => example(n, name) }));
  $("examples").hidden = !examples.length;
  $("examples").replaceChildren("Or take an example: ", ...examples.flatMap((one) => [one, " "]));
}

function clear() {
  shown = null; panels = []; merged = new Map(); chosen = null;
  for (const id of ["panels", "mergepanel", "merged", "sources"]) $(id).replaceChildren();
  for (const id of ["tools", "merging", "yaml", "saveyaml", "mergestate", "mergeerror"]) $(id).hidden = true;
}

async function example(n, name) {
  try {
    const answer = await ask("example", { run: $("run").value, n });
    await label(await answer.blob(), name);
  } catch (error) { say("state", ""); say("error", error.message); }
}

async function label(file, name) {
  say("error", "");
  if (file.size > about.most_bytes) return say("error", `${name} is too large, expected at most ${about.most_bytes >> 20} MB`);
  const number = ++asked;
  say("state", `labelling ${name} …`);
  try {
    const told = await ask("label", { run: $("run").value, name }, file);
    if (number !== asked) return;
    await (about.kind === "keypoints" ? showHands(told) : showLabels(told));
    say("state", `${name}, ${told.width} × ${told.height} pixels`);
  } catch (error) {
    if (number === asked) { say("state", ""); say("error", error.message); }
  }
}

async function pixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// --- labels

async function showLabels(told) {
  const photo = await pixels(told.picture);
  shown = { key: told.key, step: told.step, photo };
  panels = [];
  for (const answer of told.answers) panels.push(await panel(answer, about.answers.find((one) => one.key === answer.key)));
  $("panels").replaceChildren(...panels.map((one) => one.node));
  $("tools").hidden = false;
  $("merging").hidden = false;
  panels.forEach(paint);
  sources();
  merge();
}

async function panel(answer, labelset, off = new Set()) {
  const map = await pixels(answer.map);
  const canvas = make("canvas", { width: map.width, height: map.height });
  const one = { key: answer.key, labelset, map, canvas, off, said: make("div", { className: "said" }), cross: make("div", { className: "cross" }) };
  const view = make("div", { className: "view" }, canvas, one.cross);
  for (const event of ["pointermove", "pointerdown"]) view.addEventListener(event, (e) => point(e, canvas));
  view.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") leave(); });
  const query = new URLSearchParams({ run: $("run").value, key: shown.key, labelset: answer.key });
  const save = make("a", { href: `png?${query}`, download: `${labelset.name}.png`, textContent: "Download PNG" });
  const legend = make("div", { className: "legend" });
  for (const [name, share] of Object.entries(answer.shares)) {
    const id = labelset.labels.indexOf(name);
    if (id < 0) continue;
    const button = make("button", { type: "button", title: "switch it off and on" }, dot(labelset.colours[id]), `${name} ${percent(share)}`);
    button.setAttribute("aria-pressed", String(!off.has(id)));
    button.onclick = () => {
      if (!off.delete(id)) off.add(id);
      button.setAttribute("aria-pressed", String(!off.has(id)));
      paint(one);
    };
    legend.append(button);
  }
  one.node = make("div", { className: "panel" }, make("h3", {}, labelset.name, save), view, one.said, legend);
  one.node.dataset.labelset = one.key;
  return one;
}

function dot(colour) {
  const node = make("span", { className: "dot" });
  node.style.background = `rgb(${colour})`;
  return node;
}

function percent(share) { return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`; }

function paint(one) {
  const { map, labelset, off } = one, { photo } = shown, part = $("opacity").value / 100;
  const out = new ImageData(map.width, map.height), from = map.data, under = photo.data, to = out.data;
  for (let i = 0; i < to.length; i += 4) {
    const id = from[i], colour = off.has(id) ? null : labelset.colours[id];
    for (let c = 0; c < 3; c++) to[i + c] = colour ? part * colour[c] + (1 - part) * under[i + c] : under[i + c];
    to[i + 3] = 255;
  }
  one.canvas.getContext("2d").putImageData(out, 0, 0);
}

function point(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * canvas.width);
  const y = Math.floor((event.clientY - box.top) / box.height * canvas.height);
  if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return;
  for (const one of panels) {
    const i = 4 * (y * one.map.width + x), id = one.map.data[i];
    one.said.replaceChildren(dot(one.labelset.colours[id]), ` ${one.labelset.labels[id]} ${Math.round(one.map.data[i + 1] / 2.55)} %`);
    one.cross.style.cssText = `display: block; left: ${100 * (x + 0.5) / canvas.width}%; top: ${100 * (y + 0.5) / canvas.height}%`;
  }
}

function leave() {
  for (const one of panels) { one.said.replaceChildren(); one.cross.style.display = "none"; }
}

// --- merged labelsets

function sources() {
  const owner = new Map();
  for (const [label, names] of merged) if (names !== "rest") for (const name of names) owner.set(name, label);
  $("sources").replaceChildren(...about.answers.map((labelset) => make("div", {}, make("b", { textContent: labelset.name }),
    ...labelset.labels.map((name, id) => {
      const full = `${labelset.key}.${name}`, taken = owner.get(full);
      const button = make("button", { type: "button", className: taken ? "taken" : "", title: full }, dot(labelset.colours[id]),
        taken ? `${name} → ${taken}` : name);
      button.onclick = () => toggle(full, name, taken);
      return button;
    }))));
  $("merged").replaceChildren(...[...merged].map(([label, names]) => {
    const text = names === "rest" ? `${label}: rest` : `${label}: [${names.join(", ")}]`;
    const button = make("button", { type: "button", textContent: text, title: "clicks add to this label" });
    button.setAttribute("aria-pressed", String(label === chosen));
    button.onclick = () => { chosen = label; sources(); };
    return button;
  }));
}

function toggle(full, name, taken) {
  if (taken) {
    merged.set(taken, merged.get(taken).filter((one) => one !== full));
    if (taken === chosen || !chosen) return changed();
  }
  if (!chosen || !Array.isArray(merged.get(chosen))) {
    chosen = name;
    if (!Array.isArray(merged.get(chosen))) merged.set(chosen, []);
  }
  merged.get(chosen).push(full);
  changed();
}

function changed() { sources(); clearTimeout(timer); timer = setTimeout(merge, 250); }

async function merge() {
  const labels = Object.fromEntries([...merged].filter(([, names]) => names.length));
  const number = ++merges, picture = shown;
  say("mergestate", ""); say("mergeerror", "");
  if (Object.keys(labels).length < 2) {
    panels = panels.filter((one) => one.key !== "merged");
    $("mergepanel").replaceChildren(); $("yaml").hidden = $("saveyaml").hidden = true;
    return;
  }
  say("mergestate", "merging …");
  try {
    const told = await ask("merge", { run: $("run").value, key: shown.key }, JSON.stringify({ name: "merged", labels }));
    if (number !== merges || picture !== shown) return;
    const one = await panel({ ...told.answer, key: "merged" }, told.about);
    panels = [...panels.filter((other) => other.key !== "merged"), one];
    $("mergepanel").replaceChildren(one.node);
    paint(one);
    say("mergestate", ""); say("yaml", told.yaml); $("saveyaml").hidden = false;
  } catch (error) { if (number === merges && picture === shown) { say("mergestate", ""); say("mergeerror", error.message); } }
}

$("add").onsubmit = (event) => {
  event.preventDefault();
  const name = $("label").value.trim();
  if (!name) return;
  if (!merged.has(name)) merged.set(name, []);
  chosen = name; $("label").value = "";
  changed();
};
$("equal").onclick = () => {
  const by = new Map(), taken = new Set([...merged.values()].flat());
  for (const one of about.answers) for (const name of one.labels) by.set(name, [...(by.get(name) ?? []), `${one.key}.${name}`]);
  for (const [name, owners] of by) {
    const free = owners.filter((one) => !taken.has(one));
    if (owners.length > 1 && free.length && merged.get(name) !== "rest") merged.set(name, [...(merged.get(name) ?? []), ...free]);
  }
  changed();
};
$("rest").onclick = () => { if (![...merged.values()].includes("rest")) merged.set(merged.has("rest") ? "what is left" : "rest", "rest"); changed(); };
$("clear").onclick = () => { merged = new Map(); chosen = null; changed(); };
$("saveyaml").onclick = () => {
  const url = URL.createObjectURL(new Blob([$("yaml").textContent], { type: "text/yaml" }));
  make("a", { href: url, download: "merged.yaml" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};

// --- hands

async function showHands(told) {
  clear();
  panels = [];
  $("panels").replaceChildren(...told.answers.map((answer) => {
    const points = Object.entries(answer.keypoints);
    const lines = points.map(([name, { px, mm }]) => `${name}: pixel ${px.join(", ")}; x, y, z ${mm.join(", ")} mm`).join("\n");
    const save = make("a", { href: answer.picture, download: `${answer.key}.skeleton.png`, textContent: "Download PNG" });
    return make("div", { className: "panel" }, make("h3", {}, answer.key, save),
      make("div", { className: "view" }, make("img", { src: answer.picture, alt: `the keypoints of ${answer.key}` })),
      make("details", {}, make("summary", { textContent: `${points.length} keypoints` }), make("pre", { textContent: lines })));
  }));
}

// --- what starts it all

$("file").onchange = () => { const [file] = $("file").files; $("file").value = ""; if (file) label(file, file.name); };
$("run").onchange = pick;
$("opacity").oninput = () => panels.forEach(paint);
for (const event of ["dragover", "dragleave", "drop"]) document.addEventListener(event, (e) => {
  e.preventDefault();
  $("drop").classList.toggle("over", event === "dragover");
  if (event === "drop" && e.dataTransfer.files.length) label(e.dataTransfer.files[0], e.dataTransfer.files[0].name);
});
begin().catch((error) => { say("state", ""); say("error", error.message); });
