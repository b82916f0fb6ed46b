"use strict";
// Keeps the pages up to date. Whatever comes from a path goes into text nodes, never into markup.
const number = new Intl.NumberFormat();
const find = (selector) => document.querySelector(selector);

function localTimes() {
  for (const each of document.querySelectorAll("time[datetime]")) showTime(each, each.dateTime);
}

function showTime(element, text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return;
  element.dateTime = text;
  element.textContent = moment.toLocaleString(undefined, {dateStyle: "medium", timeStyle: "medium"});
}

function cell(text, name) {
  const td = document.createElement("td");
  if (name) td.className = name;
  td.textContent = text;
  return td;
}

function nameCell(row, width) {
  const td = document.createElement("td");
  td.className = "url";
  const bdi = document.createElement("bdi");
  bdi.textContent = row.name;
  const link = document.createElement("a");
  if (width === 3 && row.is_section) {
    const address = new URL(location.href);
    address.searchParams.set("prefix", row.name);
    address.searchParams.set("group", String(row.name.split("/").length - 1));
    address.searchParams.delete("cursor");
    link.href = address.pathname + address.search;
  } else {
    link.href = "/url?" + new URLSearchParams({url: row.name});
  }
  link.append(bdi);
  td.append(link);
  return td;
}

function showRows(body, rows) {
  if (!rows.length) return;
  const width = Number(body.dataset.width);
  const old = new Map([...body.rows].map((tr) => [tr.querySelector("bdi")?.textContent, tr]));
  const kept = new Set();
  // A URL's row stays the same element, so that nothing flickers or loses the focus.
  rows.forEach((row, index) => {
    const tr = old.get(row.name) || newRow(row, width);
    kept.add(tr);
    const texts = {0: row.rank, 2: row.requests, 4: width === 3 ? row.urls : row.recent};
    if (width === 2) texts[5] = row.before;
    for (const [column, value] of Object.entries(texts)) showText(tr.cells[column], number.format(value));
    showText(tr.cells[3], row.share);
    if (body.rows[index] !== tr) body.insertBefore(tr, body.rows[index] || null);
  });
  for (const tr of [...body.rows]) if (!kept.has(tr)) tr.remove();
}

function newRow(row, width) {
  const tr = document.createElement("tr");
  tr.append(cell("", "number"), nameCell(row, width), cell("", "number"), cell("", "number wide"), cell("", "number"));
  if (width === 2) tr.append(cell("", "number wide"));
  return tr;
}

function showText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showBalance(balance) {
  const box = find("#balance");
  for (const each of box.querySelectorAll("[data-balance]")) {
    each.textContent = number.format(balance[each.dataset.balance]);
  }
  box.classList.toggle("wrong", balance.lost > 0 || balance.set_aside > 0);
  box.classList.toggle("away", !balance.reachable);
  box.querySelector("[data-state]").textContent = balance.reachable
    ? "The ledger answers." : "The ledger is away: these are the last figures known.";
}

const rates = [];
let last = null;

function showRate(content) {
  const at = Date.parse(content.as_of);
  if (last && at > last.at && content.requests >= last.total) {
    rates.push((content.requests - last.total) * 1000 / (at - last.at));
    if (rates.length > 60) rates.shift();
    const most = Math.max(1, ...rates);
    find("[data-rate]").textContent = number.format(Math.round(rates[rates.length - 1]));
    find("[data-spark] polyline").setAttribute(
      "points", rates.map((rate, index) => `${120 - 2 * (rates.length - index)},${(23 - 22 * rate / most).toFixed(1)}`).join(" "));
    find(".rate").hidden = false;
  }
  last = {at, total: content.requests};
}

function showNotice(text) {
  const notice = find("[data-notice]");
  if (text) text += " These are the last figures known.";
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

async function update() {
  const answer = await fetch("/live/" + location.search, {headers: {Accept: "application/json"}});
  if (!answer.ok) throw new Error(answer.statusText);
  const content = await answer.json();
  showBalance(content.balance);
  showNotice(content.error);
  if (!content.rows || content.error) return;
  find("[data-total]").textContent = number.format(content.requests);
  if (content.urls !== null) find("[data-urls]").textContent = number.format(content.urls);
  if (content.today !== null) find("[data-today]").textContent = number.format(content.today);
  showTime(find("[data-asof]"), content.as_of);
  showRows(find("[data-rows]"), content.rows);
  showRate(content);
}

const seen = () => document.hidden
  ? new Promise((resolve) => document.addEventListener("visibilitychange", resolve, {once: true})) : null;

async function keepUpdating() {
  // One request at a time, and none while nobody looks.
  for (;;) {
    await seen();
    await update().catch(() => showNotice("The service does not answer."));
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function showRun(run) {
  find("#run").hidden = false;
  find("#run progress").value = run.sent / run.requested;
  const rate = run.requests_per_second ? `, ${number.format(Math.round(run.requests_per_second))} requests/s` : "";
  const latency = run.latency_ms ? `; p50 ${run.latency_ms.p50} ms, p99 ${run.latency_ms.p99} ms` : "";
  find("[data-run]").textContent =
    `${run.status}: ${number.format(run.sent)} of ${number.format(run.requested)}, ` +
    `${number.format(run.failed)} failed${rate}${latency}${run.error ? ". " + run.error : ""}`;
}

function sayOfRun(text) {
  find("#run").hidden = false;
  find("[data-run]").textContent = text;
}

async function follow(id) {
  const cancel = find("[data-cancel]");
  cancel.onclick = () => fetch(`/test/runs/${id}/`, {method: "DELETE"});
  let before = null;
  for (;;) {
    const answer = await fetch(`/live/runs/${encodeURIComponent(id)}/`);
    const run = await answer.json();
    if (!answer.ok) return sayOfRun(run.detail);
    const at = performance.now();
    if (!run.requests_per_second && before && at > before.at) {
      run.requests_per_second = (run.sent - before.sent) * 1000 / (at - before.at);
    }
    before = {at, sent: run.sent};
    showRun(run);
    const open = run.status === "queued" || run.status === "running";
    cancel.hidden = !open;
    if (!open) return refreshRuns();
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function refreshRuns() {
  const text = await (await fetch("/runs/")).text();
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("[data-runs]");
  if (fresh) find("[data-runs]").replaceWith(fresh);
  localTimes();
}

async function tryRun(event) {
  event.preventDefault();
  const button = find("#try button");
  button.disabled = true;
  try {
    const answer = await fetch(`/test/${encodeURIComponent(event.target.n.value)}/`,
      {method: "POST", headers: {Prefer: "respond-async"}});
    const run = await answer.json();
    if (!answer.ok) return sayOfRun(run.detail);
    // The run has its own address, to be sent to a colleague.
    history.replaceState(null, "", "/runs/?" + new URLSearchParams({run: run.id}));
    await follow(run.id);
  } catch {
    sayOfRun("The service does not answer.");
  } finally {
    button.disabled = false;
    find("[data-cancel]").hidden = true;
  }
}

localTimes();
if (find("#live[data-live=on]")) keepUpdating();
if (find("#try")) {
  find("#try").hidden = false;
  find("#try").addEventListener("submit", tryRun);
  const run = new URLSearchParams(location.search).get("run");
  if (run) follow(run).catch(() => sayOfRun("The service does not answer."));
}
