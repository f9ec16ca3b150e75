"use strict";
// What is shown comes from the documents of the control API; nothing is computed twice.
//
//   every second   /v1/arrays                     cards (made once, then only changed)
//                  /v1/arrays/NAME/stats          the plots
//   on a change    /v1/arrays/NAME/map            bitmap and bad blocks (and every 5 s)
//   as they come   /v1/events                     the list at the bottom
//   a button       question -> POST -> what the answer says

const PLOT_SECONDS = 120;
const CELLS = 256;
const SVG = "http://www.w3.org/2000/svg";
const BUSY = {
  recover: "rebuilding", resync: "resyncing", check: "checking", repair: "repairing",
};
const cards = new Map();

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("data-") || key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.error ?? `refused (${answer.status})`);
  return document;
}

let saidTimer = 0;
function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.hidden = false;
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => { said.hidden = true; }, 8000);
}

// Nothing is done before somebody has read what it means.
function confirmed(question, consequence, word) {
  const dialog = document.getElementById("ask");
  document.getElementById("question").textContent = question;
  document.getElementById("consequence").textContent = consequence;
  document.getElementById("yes").textContent = word;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}

async function act(question, consequence, word, path, body) {
  if (!await confirmed(question, consequence, word)) return;
  try {
    const done = await ask(path, body);
    say(done.messages?.join("; ") || "done");
  } catch (error) {
    say(error.message);
  }
  refresh();
}

function health(array) {
  if (array.failed || ["broken", "frozen"].includes(array.array_state)) return "bad";
  if (array.sync && array.sync.action === "recover") return "work";
  if (array.degraded > 0) return "warn";
  if (array.sync) return "work";
  return array.array_state === "inactive" ? "idle" : "good";
}

function healthWord(array) {
  if (array.array_state === "frozen" || array.array_state === "broken") return array.array_state;
  if (array.failed) return "failed";
  const words = [];
  if (array.degraded > 0) words.push(`degraded: ${array.degraded} missing`);
  if (array.sync) words.push(BUSY[array.sync.action] ?? array.sync.action);
  if (array.array_state.startsWith("read")) words.push(array.array_state);
  return words.join(", ") || (array.array_state === "inactive" ? "inactive" : "healthy");
}

function path(array, operation) {
  return `/v1/arrays/${encodeURIComponent(array.name)}${operation ? `/${operation}` : ""}`;
}

function figure(caption, svg) {
  const text = element("figcaption", {}, caption);
  return { text, svg, whole: element("figure", {}, text, svg) };
}

function makeCard(name) {
  const card = { name, history: [], last: null };
  card.title = element("h2", {}, name);
  card.what = element("span", { className: "what" });
  card.badge = element("span", { className: "badge" });
  card.slots = element("ul", { className: "slots" });
  card.progress = element("progress", { max: 100 });
  card.how = element("small");
  card.sync = element("div", { className: "sync", hidden: true }, card.progress, card.how);
  card.plot = figure("Throughput", drawn("svg", {
    viewBox: `0 0 ${PLOT_SECONDS} 40`, preserveAspectRatio: "none", height: 80, role: "img",
  }));
  card.bitmap = figure("Write-intent bitmap", drawn("svg", { height: 80, role: "img" }));
  card.actions = element("div", { className: "actions" });
  card.reason = element("p", { hidden: true });
  card.whole = element("article", { className: "array", "data-array": name },
    element("div", { className: "title" }, card.title, card.what, card.badge),
    card.reason, card.slots, card.sync,
    element("div", { className: "pictures" }, card.plot.whole, card.bitmap.whole),
    card.actions);
  document.getElementById("arrays").append(card.whole);
  cards.set(name, card);
  return card;
}

function showArray(card, array) {
  card.array = array;
  card.whole.className = `array ${health(array)}`;
  const chunk = array.chunk_bytes ? `, ${size(array.chunk_bytes)} chunks` : "";
  const layout = array.layout ? `, ${array.layout}` : "";
  card.what.textContent = `${array.level}, ${size(array.array_bytes)}${chunk}${layout}, `
    + `metadata ${array.metadata}`;
  card.badge.textContent = healthWord(array);
  card.reason.hidden = !array.reason;
  card.reason.textContent = array.reason ?? "";
  showSync(card, array);
  // A button under the pointer stays: the slots are made anew only when they are others.
  const members = array.members.map((member) => ({ ...member, recovered_bytes: null }));
  const slots = JSON.stringify([members, array.raid_disks, array.degraded]);
  if (slots !== card.slotsShown) { card.slotsShown = slots; showSlots(card, array); }
  const actions = `${array.sync?.action} ${array.array_state === "readonly"}`;
  if (actions !== card.actionsShown) { card.actionsShown = actions; showActions(card, array); }
}

function showSync(card, array) {
  card.sync.hidden = !array.sync;
  if (!array.sync) return;
  card.progress.value = array.sync.percent;
  const rest = array.sync.finish_seconds;
  const word = BUSY[array.sync.action] ?? array.sync.action;
  card.how.textContent = `${word}: ${array.sync.percent.toFixed(1)} %, `
    + `${size(array.sync.speed_kib_s * 1024)}/s`
    + (rest === null ? "" : `, ${span(rest)} to go`)
    + (array.sync.held ? ", waits at its limit" : "");
}

function memberWord(member) {
  const words = [member.state.replace("_", " ")];
  if (member.replacement) words.push("replacement");
  if (member.want_replacement) words.push("to be replaced");
  if (member.write_mostly) words.push("write-mostly");
  if (member.corrected_read_errors) words.push(`${member.corrected_read_errors} read errors mended`);
  if (member.bad_ranges) words.push(`${size(member.bad_bytes)} bad`);
  return words.join(", ");
}

function memberBox(array, member, label) {
  const base = member.path.split("/").pop();
  const box = element("li", {
    className: `slot ${member.state}`, title: member.path, "data-member": member.path,
  }, element("small", {}, label), element("b", {}, base),
  element("small", {}, memberWord(member)));
  if (member.fault) box.append(element("small", { className: "why" }, member.fault));
  box.append(drawn("svg", { viewBox: "0 0 1000 8", preserveAspectRatio: "none" }));
  box.append(memberTools(array, member, base));
  return box;
}

function memberTools(array, member, base) {
  const tools = element("div", { className: "tools" });
  const manage = (operation) => ({ operation, device: member.path, force: false });
  const add = (word, question, consequence, operation, grave) => {
    const button = element("button", { className: grave ? "grave" : "", onclick: () =>
      act(question, consequence, word, path(array, "manage"), manage(operation)) }, word);
    button.dataset.does = operation;
    tools.append(button);
  };
  if (member.state === "faulty") {
    add("Re-add", `Put ${base} back into ${array.name}?`,
      "Only what it missed is copied, where the bitmap knows that; otherwise it is refused.",
      "re-add");
  }
  if (member.state === "faulty" || member.state === "spare") {
    add("Remove", `Take ${base} out of ${array.name}?`, "Its file or device is free afterwards.",
      "remove");
  } else {
    const last = array.degraded > 0 || array.level_number === 0 || array.level_number === -1;
    add("Fail", `Mark ${base} faulty?`,
      last ? `${array.name} has no redundancy to spare: this may make its data unreachable.`
        : `${array.name} goes on without it; a spare takes its place if there is one.`,
      "fail", true);
  }
  return tools;
}

function showSlots(card, array) {
  const boxes = [];
  const held = new Set();
  const inOrder = [...array.members].sort((a, b) => (a.slot ?? 1e6) - (b.slot ?? 1e6));
  for (const member of inOrder) {
    if (member.slot !== null && !member.replacement) held.add(member.slot);
  }
  for (let slot = 0; slot < array.raid_disks; slot += 1) {
    const here = inOrder.filter((member) => member.slot === slot);
    boxes.push(...here.map((member) => memberBox(array, member, `slot ${slot}`)));
    if (!held.has(slot)) {
      boxes.push(element("li", { className: "slot missing" },
        element("small", {}, `slot ${slot}`), element("b", {}, "missing")));
    }
  }
  const others = inOrder.filter((member) => member.slot === null);
  boxes.push(...others.map((member) => memberBox(array, member, "no slot")));
  card.slots.replaceChildren(...boxes);
  if (card.map) showMap(card, card.map);
}

function showActions(card, array) {
  const action = (word, body, question, consequence) => element("button", {
    onclick: () => act(question, consequence, word, path(array, "action"), body),
  }, word);
  const redundant = ![0, -1, -5].includes(array.level_number);
  const buttons = [];
  if (redundant && array.sync) {
    buttons.push(action("Pause", { action: "idle" }, `Stop the ${array.sync.action}?`,
      "A check or repair ends; a resync or recovery that is still needed begins again."));
  } else if (redundant) {
    buttons.push(
      action("Check", { action: "check" }, `Check ${array.name}?`,
        "Everything is read and compared; nothing is changed."),
      action("Repair", { action: "repair" }, `Repair ${array.name}?`,
        "Everything is read; where members differ they are made equal."));
  }
  const readonly = array.array_state === "readonly";
  const mode = readonly ? "Read-write" : "Read-only";
  buttons.push(element("button", { onclick: () =>
    act(`Make ${array.name} ${mode.toLowerCase()}?`,
      readonly ? "Clients can write again." : "Writes of clients fail from then on.",
      mode, path(array, "readonly"), { readonly: !readonly }) }, mode));
  buttons.push(element("button", { className: "grave", onclick: () =>
    act(`Stop ${array.name}?`, "Clients are cut off; members are left clean and can be started "
      + "again.", "Stop", path(array, "stop"), {}) }, "Stop"));
  card.actions.replaceChildren(...buttons);
}

function line(points, high) {
  return points.map(([x, y]) => `${x.toFixed(1)},${(39 - 37 * (y / high)).toFixed(2)}`).join(" ");
}

function showPlot(card, stats, now) {
  const of = (kind) => stats.requests.find((one) => one.kind === kind)?.bytes ?? 0;
  const current = { at: now, read: of("read"), write: of("write") };
  const last = card.last;
  card.last = current;
  if (!last || now <= last.at) return;
  const seconds = (now - last.at) / 1000;
  const rate = (key) => Math.max(0, current[key] - last[key]) / seconds;
  card.history.push({ at: now, read: rate("read"), write: rate("write") });
  card.history = card.history.filter((one) => now - one.at <= PLOT_SECONDS * 1000);
  const high = Math.max(1024 * 1024, ...card.history.map((one) => Math.max(one.read, one.write)));
  const lines = ["read", "write"].map((key) => {
    const x = (one) => PLOT_SECONDS - (now - one.at) / 1000;
    return drawn("polyline", {
      class: key, points: line(card.history.map((one) => [x(one), one[key]]), high),
    });
  });
  card.plot.svg.replaceChildren(...lines);
  const rates = card.history[card.history.length - 1];
  card.plot.text.replaceChildren("Throughput, two minutes, up to ", size(high), "/s: ",
    element("span", { className: "key r" }, `read ${size(rates.read)}/s`), ", ",
    element("span", { className: "key w" }, `write ${size(rates.write)}/s`));
}

function showMap(card, map) {
  card.map = map;
  const cells = map.dirty_percent;
  card.bitmap.whole.hidden = cells === null;
  if (cells !== null) {
    const columns = Math.min(64, cells.length);
    const rows = Math.ceil(cells.length / columns);
    card.bitmap.svg.setAttribute("viewBox", `0 0 ${columns * 10} ${rows * 10}`);
    card.bitmap.svg.setAttribute("preserveAspectRatio", "none");
    card.bitmap.svg.replaceChildren(...cells.map((percent, index) => {
      const cell = drawn("rect", {
        x: (index % columns) * 10 + 0.5, y: Math.floor(index / columns) * 10 + 0.5,
        width: 9, height: 9, class: percent > 0 ? "dirty" : "clean",
      });
      if (percent > 0) cell.style.opacity = 0.35 + 0.65 * (percent / 100);
      return cell;
    }));
    const bitmap = card.array.bitmap;
    card.bitmap.text.textContent = `Write-intent bitmap: ${bitmap?.dirty_bits ?? 0} of `
      + `${bitmap?.bits ?? 0} regions dirty, ${size(bitmap?.chunk_bytes ?? 0)} each`;
  }
  for (const member of card.array.members) showBad(card, member, map);
}

function showBad(card, member, map) {
  const box = [...card.slots.children].find((one) => one.dataset.member === member.path);
  const svg = box?.querySelector("svg");
  if (!svg) return;
  const log = map.members.find((one) => one.path === member.path);
  const whole = member.data_offset_bytes + member.data_size_bytes;
  const parts = [drawn("rect", { x: 0, y: 0, width: 1000, height: 8, class: "span" })];
  for (const bad of log?.bad ?? []) {
    const x = Math.min(996, 1000 * (bad.offset_bytes / whole));
    const width = Math.max(4, 1000 * (bad.len_bytes / whole));
    parts.push(drawn("rect", { x, y: 0, width, height: 8, class: "hole" }));
  }
  const title = drawn("title");
  title.textContent = log ? `${log.bad.length} ranges in the bad-block log` : "no bad-block log";
  svg.replaceChildren(title, ...parts);
}

function summary(arrays) {
  if (arrays.length === 0) return "No array runs.";
  const ill = arrays.filter((array) => array.degraded > 0 || health(array) === "bad");
  const names = ill.map((array) => array.name).join(", ");
  const count = arrays.length === 1 ? "1 array" : `${arrays.length} arrays`;
  return ill.length === 0 ? `${count}, all healthy` : `${count}; look at ${names}`;
}

async function refresh() {
  let list;
  try {
    list = (await ask("/v1/arrays")).arrays;
  } catch (error) {
    document.getElementById("summary").textContent = `The daemon does not answer: ${error.message}`;
    return;
  }
  const text = summary(list);
  document.getElementById("summary").textContent = text;
  document.title = text.includes("look") ? `! umd: ${text}` : "umd";
  const names = new Set(list.map((array) => array.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) { card.whole.remove(); cards.delete(name); }
  }
  for (const array of list) {
    const card = cards.get(array.name) ?? makeCard(array.name);
    showArray(card, array);
    // An array may stop between two questions: the next round shows that.
    ask(path(array, "stats")).then((stats) => showPlot(card, stats, performance.now()), () => {});
    const dirty = array.bitmap?.dirty_bits;
    if (dirty !== card.dirty) { card.dirty = dirty; refreshMap(card); }
  }
}

function refreshMap(card) {
  ask(`${path(card.array, "map")}?cells=${CELLS}`).then((map) => showMap(card, map), () => {});
}

function refreshMaps() {
  for (const card of cards.values()) refreshMap(card);
}

function listen() {
  const events = document.getElementById("events");
  const source = new EventSource("/v1/events");
  const show = (message) => {
    const event = JSON.parse(message.data);
    if (event.event === "Changed") { refresh(); return; }
    document.getElementById("quiet").hidden = true;
    const member = event.member ? ` ${event.member.split("/").pop()}` : "";
    const text = `${event.event} ${event.array}${member}${event.text ? `: ${event.text}` : ""}`;
    events.prepend(element("li", {},
      element("time", {}, new Date().toLocaleTimeString()), element("span", {}, text)));
    while (events.children.length > 200) events.lastChild.remove();
    refresh();
    refreshMaps();
  };
  const names = ["Fail", "SpareActive", "RebuildStarted", "RebuildFinished", "NewArray",
    "DeviceDisappeared", "Broken", "Frozen", "Message", "Changed", "DegradedArray", "REMOVE", "ADD"];
  for (const name of names) source.addEventListener(name, show);
}

refresh().then(refreshMaps);
setInterval(refresh, 1000);
setInterval(refreshMaps, 5000);
listen();
