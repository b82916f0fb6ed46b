"use strict";
// Keeps pages up to date: asks for the parts that change, drawn by the server, and puts only what differs in
// their place. One request at a time, and none while nobody looks. Nothing is ever made from text here: parts
// come through the browser's parser, in which scripts do not run, and the page's policy allows none but this.
const find = (selector) => document.querySelector(selector);
const main = find("main[data-live]");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Times, in the reader's own zone

const clocks = {};
const clock = (form) => clocks[form] ||= new Intl.DateTimeFormat(undefined, {
  second: {timeStyle: "medium"},
  full: {dateStyle: "medium", timeStyle: "medium"},
  minute: {dateStyle: "medium", timeStyle: "short"},
  brief: {month: "short", day: "numeric", hour: "numeric", minute: "2-digit"},
  hour: {weekday: "short", hour: "2-digit", minute: "2-digit"},
  tick: {hour: "2-digit", minute: "2-digit"},
}[form]);

function localTime(text, form) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return null;
  const isToday = moment.toDateString() === new Date().toDateString();
  if (form === "second" && !isToday) return clock("full").format(moment);
  return clock(form === "brief" && isToday ? "second" : form).format(moment);
}

function localTimes(root) {
  for (const each of root.querySelectorAll("time[datetime]")) {
    each.textContent = localTime(each.dateTime, each.dataset.form) ?? each.textContent;
    each.title = each.dateTime;
  }
  for (const each of root.querySelectorAll("[data-hour]")) each.textContent = localTime(each.dataset.hour, "tick");
}

// Putting fresh parts in the place of old ones, element by element, so that nothing flickers or loses the focus

const keyOf = (node) => (node.dataset ? node.dataset.key : undefined);
const isAlike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  const flashes = "flash" in old.dataset && old.textContent !== fresh.textContent;
  for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const {name} of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  morphChildren(old, fresh);
  if (flashes) flash(old);
}

function morphChildren(old, fresh) {
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const named = keyed.get(keyOf(next));
    const match = named && isAlike(named, next) ? named : place && isAlike(place, next) ? place : null;
    if (match && match === place) place = place.nextSibling;
    else old.insertBefore(match || document.importNode(next, true), place);
    if (match) morph(match, next);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function flash(element) {
  if (calm.matches) return;
  const colour = getComputedStyle(element).getPropertyValue("--flash");
  element.animate([{backgroundColor: colour}, {backgroundColor: "transparent"}], 900);
}

// Of several processes, one may have drawn a moment before the other: counts never go back by that.
function isOlder(parts) {
  const [shown, fresh] = [document, parts].map((each) => each.querySelector("#overview[data-at]"));
  return Boolean(shown && fresh) && fresh.dataset.at < shown.dataset.at;
}

function show(parts) {
  const rows = [...document.querySelectorAll("[data-rows] tr")];
  const tops = new Map(calm.matches ? [] : rows.map((row) => [row, row.offsetTop]));
  const focused = document.activeElement;
  localTimes(parts);
  for (const part of [...parts.body.children]) {
    const old = document.getElementById(part.id);
    if (old) morph(old, part);
  }
  // Whoever moves an element takes the focus from it.
  if (focused !== document.activeElement && focused.isConnected) focused.focus({preventScroll: true});
  for (const [row, top] of tops) {
    const moved = row.isConnected ? top - row.offsetTop : 0;
    if (moved) row.animate([{transform: `translateY(${moved}px)`}, {transform: "none"}], {duration: 250, easing: "ease-out"});
  }
  if (tipped) tip(document.querySelector(`[data-tip][data-key="${CSS.escape(tipped)}"]`));
}

// Watching

const state = find("[data-state]");
const pause = find("[data-pause]");
let isPaused = false;
let wake = () => {};

function say(word, text) {
  state.hidden = false;
  state.dataset.state = word;
  if (state.textContent !== text) state.textContent = text;
}

async function ask() {
  const answer = await fetch(main.dataset.live, {headers: {Accept: "text/html"}, signal: AbortSignal.timeout(20000)});
  if (answer.status === 503) return null;
  // Who is not signed in any more is led to where that is done, and back.
  if (answer.redirected || answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(answer.statusText);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

const woken = () => new Promise((resolve) => { wake = resolve; });

async function watch() {
  for (let failures = 0; ;) {
    while (document.hidden || isPaused) await woken();
    try {
      const parts = await ask();
      if (parts && !isPaused && !isOlder(parts)) show(parts);
      failures = 0;
      if (isPaused) continue;
      if (find("#balance.away")) say("silent", "the ledger is away");
      else say("live", "live");
    } catch {
      failures += 1;
      if (failures > 1) say("silent", "The service does not answer: these are the last figures known.");
    }
    const usual = find("#run[data-open]") ? 500 : 1000;
    await Promise.race([wait(Math.min(15000, usual * 2 ** failures)), failures ? woken() : wait(15000)]);
  }
}

// What a bar stands for, beside the chart

let tipped = null;

function tip(bar) {
  const shown = bar && bar.closest("figure").querySelector("[data-tip-for]");
  if (!shown) return;
  tipped = bar.dataset.key;
  shown.textContent = `${bar.dataset.tip}, ${bar.dataset.at ? localTime(bar.dataset.at, "hour") : bar.dataset.name}`;
}

document.addEventListener("pointerover", (event) => {
  const bar = event.target.closest ? event.target.closest("[data-tip]") : null;
  if (bar) tip(bar);
  else tipped = null;
});

document.addEventListener("keydown", (event) => {
  const search = find("input[type=search]");
  const isTyping = event.target.closest("input, select, textarea");
  if (event.key === "/" && search && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.select();
  }
});

localTimes(document);
if (main) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    say(isPaused ? "paused" : "live", isPaused ? "paused" : "live");
    wake();
  });
  document.addEventListener("visibilitychange", () => wake());
  watch();
}
