// Fetches the page again when the appliance says that something changed; shows times in the reader's own zone.
"use strict";
(() => {
  const showTimes = (root) => {
    for (const time of root.querySelectorAll("time[data-at]")) {
      const at = new Date(Number(time.dataset.at));
      time.dateTime = at.toISOString();
      time.title = at.toISOString();
      time.textContent = at.toLocaleString();
    }
  };
  showTimes(document);

  const welcome = document.querySelector("form[data-invitation] input[name=invitation]");
  if (welcome && location.hash.length > 1) {
    welcome.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
  }

  const main = document.querySelector("main[data-live]");
  if (!main) return;
  let busy = false;
  let again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    const active = document.activeElement;
    if (active && main.contains(active) && active.matches("input, textarea, select")) { return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname === "/login") { location.href = "/login"; return; }
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        if (fresh) {
          const open = [...main.querySelectorAll("details")].map((details) => details.open);
          main.replaceChildren(...fresh.childNodes);
          main.querySelectorAll("details").forEach((details, at) => { if (at in open) details.open = open[at]; });
          showTimes(main);
        }
      }
    } catch { /* the event stream says that the connection is lost */ }
    busy = false;
    if (again) { again = false; setTimeout(refresh, 300); }
  };

  const lost = document.getElementById("connection");
  let waiting = 0;
  const connect = () => {
    const events = new EventSource("/api/v1/events");
    events.onopen = () => { if (!lost.hidden) refresh(); lost.hidden = true; };
    events.onerror = () => { lost.hidden = false; };
    events.onmessage = () => {
      if (waiting) return;
      waiting = setTimeout(() => { waiting = 0; refresh(); }, 250);
    };
  };
  connect();
})();
