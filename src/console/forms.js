// Small helps for forms: pick all, narrow a list, times in the reader's zone, no second click. Without it forms work too.
"use strict";
(() => {
  const tell = () => {
    for (const place of document.querySelectorAll("[data-count]")) {
      const count = document.querySelectorAll(`input[type=checkbox][name="${place.dataset.count}"]:checked`).length;
      place.textContent = String(count);
    }
  };
  // Listened for on the document: parts of a page come later, when something has changed.
  document.addEventListener("change", (event) => {
    const all = event.target.closest("input[data-all]");
    if (all) {
      for (const box of document.querySelectorAll(`input[type=checkbox][name="${all.dataset.all}"]:not(:disabled)`)) {
        if (!box.closest("[hidden]")) box.checked = all.checked;
      }
    }
    tell();
  });
  document.addEventListener("remint:changed", tell);
  tell();

  document.addEventListener("input", (event) => {
    const field = event.target.closest("input[data-narrows]");
    if (!field) return;
    const wanted = field.value.toLowerCase();
    for (const row of document.getElementById(field.dataset.narrows).children) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.closest("input[data-narrows]")) event.preventDefault();
  });

  // The server reads times as UTC; the reader types them in their own zone.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const field of document.querySelectorAll("input[type=datetime-local]")) {
    const label = field.closest("label").querySelector(".zone");
    if (label) label.textContent = zone;
    field.form.addEventListener("submit", () => {
      if (!field.value) return;
      const sent = document.createElement("input");
      sent.type = "hidden";
      sent.name = field.name;
      sent.value = new Date(field.value).toISOString();
      field.removeAttribute("name");
      field.form.append(sent);
    });
  }

  document.addEventListener("submit", (event) => {
    for (const button of event.target.querySelectorAll("button[type=submit]")) setTimeout(() => { button.disabled = true; }, 0);
    setTimeout(() => { for (const button of event.target.querySelectorAll("button[type=submit]")) button.disabled = false; }, 4000);
  });

  for (const select of document.querySelectorAll("select[data-submits]")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }

  for (const place of document.querySelectorAll("[data-address]")) place.textContent = location.origin + place.textContent;
  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
    });
  }
})();
