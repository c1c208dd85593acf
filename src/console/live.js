// Keeps a page up to date: moves progress as it is reported, and when more has changed fetches the page again and touches
// only what differs. Shows times in the reader's own zone.
"use strict";
(() => {
  const showTimes = (root) => {
    for (const time of root.querySelectorAll("time[data-at]")) {
      const at = new Date(Number(time.dataset.at));
      time.dateTime = at.toISOString();
      time.title = at.toISOString();
      time.textContent = at.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
    }
  };
  showTimes(document);

  const menu = document.querySelector("button.menu");
  if (menu) {
    menu.addEventListener("click", () => {
      menu.setAttribute("aria-expanded", String(menu.getAttribute("aria-expanded") !== "true"));
    });
  }

  const welcome = document.querySelector("form[data-invitation] input[name=invitation]");
  if (welcome && location.hash.length > 1) {
    welcome.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
  }

  const main = document.querySelector("main[data-events]");
  if (!main) return;

  // What the reader has opened, typed or chosen is the reader's.
  const OWN = new Set(["open", "value", "checked", "selected", "aria-expanded"]);
  const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
  const morph = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== 1) { old.nodeValue = fresh.nodeValue; return; }
    for (const { name } of [...old.attributes]) {
      if (!OWN.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      const own = OWN.has(name) && old.nodeName !== "PROGRESS";
      if (!own && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (old.nodeName !== "TEXTAREA") morphChildren(old, fresh);
  };
  const morphChildren = (old, fresh) => {
    const keyed = new Map();
    for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const known = keyOf(wanted) ? keyed.get(keyOf(wanted)) : undefined;
      if (known && alike(known, wanted)) {
        if (known === at) at = at.nextSibling; else old.insertBefore(known, at);
        morph(known, wanted);
      } else if (at && alike(at, wanted)) {
        const next = at.nextSibling;
        morph(at, wanted);
        at = next;
      } else {
        old.insertBefore(wanted, at);
      }
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  };

  let fetching = false;
  let stale = false;
  let timer = 0;
  let took = 0;
  const refresh = async () => {
    timer = 0;
    if (fetching) { stale = true; return; }
    fetching = true;
    stale = false;
    const begun = performance.now();
    const { begun: moves, ended: movesOver } = main.dataset;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname === "/login") { location.href = "/login"; return; }
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        // A page that was asked for while the reader moved something does not know of it yet.
        if (moves !== movesOver || moves !== main.dataset.begun) stale = true;
        else if (fresh && !main.classList.contains("held")) {
          showTimes(fresh);
          morphChildren(main, fresh);
          document.dispatchEvent(new CustomEvent("remint:changed"));
        }
      }
    } catch { /* the event stream says that the connection is lost */ }
    took = performance.now() - begun;
    fetching = false;
    if (stale) soon();
  };
  // Never more than a quarter of the time is spent on fetching, and at least 400 ms lie between two looks.
  const soon = () => { if (!timer) timer = setTimeout(refresh, Math.max(400, 3 * took)); };

  const progressed = (run, data) => {
    for (const holder of main.querySelectorAll(`[data-progress="${CSS.escape(run)}"]`)) {
      const percent = data.total > 0 ? Math.floor((Math.min(data.done, data.total) * 100) / data.total) : 0;
      holder.hidden = data.total === 0;
      holder.querySelector("progress").value = percent;
      if (holder.dataset.brief) holder.title = data.note || "";
      holder.querySelector("span").textContent = `${percent} %` + (data.note && !holder.dataset.brief ? ` · ${data.note}` : "");
    }
  };
  const logged = (data) => {
    const log = document.getElementById("log-lines");
    if (!log) { stale = true; return; }
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
    log.append(`${data.text}\n`);
    if (atEnd) log.scrollTop = log.scrollHeight;
  };

  const lost = document.getElementById("connection");
  const log = document.getElementById("log-lines");
  if (log) log.scrollTop = log.scrollHeight;
  const events = new EventSource(`/api/v1/events?every=250&${main.dataset.events}`);
  events.onopen = () => { if (!lost.hidden) soon(); lost.hidden = true; };
  events.onerror = () => { lost.hidden = false; };
  events.onmessage = (message) => {
    let changed = false;
    for (const event of JSON.parse(message.data)) {
      if (event.kind === "progress") progressed(event.subject, event.data);
      else if (event.kind === "log") logged(event.data);
      else changed = true;
    }
    if (changed) soon();
  };
  window.addEventListener("pagehide", () => events.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();
