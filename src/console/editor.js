// The editor: line numbers with marks, the checker's words while one types, completion out of the schema, indenting.
"use strict";
(() => {
  const text = document.getElementById("document");
  if (!text) return;
  const gutter = document.getElementById("gutter");
  const findings = document.getElementById("findings");
  const list = document.getElementById("completions");
  let problems = [...findings.querySelectorAll("[data-line]")].map((button) => ({ line: Number(button.dataset.line) }));

  const drawGutter = () => {
    const count = text.value.split("\n").length;
    const wrong = new Set(problems.filter((problem) => !problem.file).map((problem) => problem.line));
    gutter.replaceChildren(...Array.from({ length: count }, (_, at) => {
      const line = document.createElement("span");
      line.textContent = String(at + 1);
      if (wrong.has(at + 1)) line.className = "wrong";
      return line;
    }));
    gutter.scrollTop = text.scrollTop;
  };
  const fit = () => { gutter.style.height = `${text.clientHeight}px`; drawGutter(); };
  text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
  new ResizeObserver(fit).observe(text);

  const goTo = (line, column) => {
    const before = text.value.split("\n").slice(0, line - 1).join("\n");
    const at = before.length + (line > 1 ? 1 : 0) + Math.max(0, column - 1);
    text.focus();
    text.setSelectionRange(at, at);
    text.scrollTop = Math.max(0, (line - 4) * 20);
  };
  findings.addEventListener("click", (event) => {
    const button = event.target.closest("[data-line]");
    if (button) goTo(Number(button.dataset.line), Number(button.dataset.column));
  });

  const element = (name, content, attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = content;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  // What stands between backticks is typed as it stands.
  const sentence = (words, attributes = {}) => {
    const made = element("p", "", attributes);
    made.append(...words.split("`").map((part, at) => (at % 2 ? element("code", part) : part)));
    return made;
  };
  const showFindings = () => {
    if (problems.length === 0) { findings.replaceChildren(element("p", "Nothing is wrong.", { class: "success" })); return; }
    const entries = problems.map((problem) => {
      const entry = document.createElement("li");
      entry.append(
        problem.file
          ? element("b", `${problem.file}, line ${problem.line}, column ${problem.column}`)
          : element("button", `line ${problem.line}, column ${problem.column}`, { type: "button", class: "quiet", "data-line": problem.line, "data-column": problem.column }),
        sentence(problem.message));
      if (problem.hint) entry.append(sentence(problem.hint, { class: "hint" }));
      return entry;
    });
    const all = document.createElement("ul");
    all.className = "findings";
    all.append(...entries);
    findings.replaceChildren(element("p", problems.length === 1 ? "1 problem" : `${problems.length} problems`), all);
  };
  let asked = 0;
  let timer = 0;
  const check = async () => {
    const number = ++asked;
    const answer = await fetch("/api/v1/sequences/check", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ document: text.value, files: JSON.parse(text.form.dataset.files) }),
    }).catch(() => null);
    if (!answer || !answer.ok || number !== asked) return;
    problems = (await answer.json()).problems;
    showFindings();
    drawGutter();
  };
  text.addEventListener("input", () => { drawGutter(); clearTimeout(timer); timer = setTimeout(check, 350); });

  // Completion: steps where an item begins, parameters within a step, values where they are few.
  let schema = null;
  const load = async () => { schema = schema || await fetch("/api/v1/schemas/sequence").then((answer) => answer.json()).catch(() => null); return schema; };
  const indentOf = (line) => line.length - line.trimStart().replace(/^- +/, (dash) => " ".repeat(dash.length)).trimStart().length;
  const contextOf = () => {
    const before = text.value.slice(0, text.selectionStart);
    const lines = before.split("\n");
    const line = lines.pop();
    const word = (line.match(/[a-z_-]*$/) || [""])[0].replace(/^-+/, "");
    return { lines, line, word, indent: indentOf(line.slice(0, line.length - word.length)) };
  };
  const stepAbove = (lines, indent) => {
    for (let at = lines.length - 1; at >= 0; at -= 1) {
      if (!lines[at].trim()) continue;
      const own = indentOf(lines[at]);
      if (own < indent) return (lines[at].trim().replace(/^- +/, "").match(/^([a-z-]+):/) || [])[1] || null;
    }
    return null;
  };
  const describe = (value) => (value && (value.description || (value.anyOf && value.anyOf.map(describe).find(Boolean)))) || "";
  const valuesOf = (value) => (value && (value.enum || (value.anyOf && value.anyOf.map(valuesOf).find(Boolean)) || (value.type === "boolean" && ["true", "false"]))) || [];
  const candidates = (known, context) => {
    const { lines, line, word, indent } = context;
    const steps = Object.keys(known.$defs).filter((name) => known.$defs[name].properties && known.$defs[name].properties[name]);
    const key = line.match(/^\s*(?:- +)?([a-z-]+): +[^ ]*$/);
    const above = stepAbove(lines, indent);
    if (key && above && known.$defs[above]) {
      const parameter = ((known.$defs[above].properties[above] || {}).properties || {})[key[1]];
      return valuesOf(parameter).map((name) => ({ insert: String(name), name: String(name), about: "" }));
    }
    if (key) return [];
    const named = (properties) => Object.entries(properties || {}).map(([name, value]) => ({ insert: `${name}: `, name, about: describe(value) }));
    if (/^\s*- [a-z-]*$/.test(line)) {
      return steps.map((name) => ({ insert: `${name}:\n${" ".repeat(indent + 4)}`, name, about: describe(known.$defs[name].properties[name]) }))
        .concat([{ insert: "group: ", name: "group", about: "Steps that belong together" }]);
    }
    if (above && steps.includes(above)) return named(known.$defs[above].properties[above].properties);
    if (above === "steps" || above === "on-failure" || above === "always") return named(known.$defs["run-command"].properties).filter(({ name }) => !steps.includes(name));
    return indent === 0 ? named(known.properties) : [];
  };
  let shown = [];
  let chosen = 0;
  const close = () => { list.hidden = true; text.removeAttribute("aria-activedescendant"); };
  const choose = (at) => {
    chosen = (at + shown.length) % shown.length;
    [...list.children].forEach((entry, index) => entry.setAttribute("aria-selected", String(index === chosen)));
    list.children[chosen].scrollIntoView({ block: "nearest" });
    text.setAttribute("aria-activedescendant", list.children[chosen].id);
  };
  const accept = () => {
    const { word } = contextOf();
    const start = text.selectionStart - word.length;
    text.setRangeText(shown[chosen].insert, start, text.selectionEnd, "end");
    close();
    text.dispatchEvent(new Event("input"));
  };
  const complete = async () => {
    const known = await load();
    if (!known) return;
    const context = contextOf();
    shown = candidates(known, context).filter(({ name }) => name.startsWith(context.word));
    if (shown.length === 0) { close(); return; }
    list.replaceChildren(...shown.map(({ name, about }, at) => {
      const entry = element("li", name, { role: "option", id: `completion-${at}` });
      if (about) entry.append(element("small", about));
      entry.addEventListener("mousedown", (event) => { event.preventDefault(); chosen = at; accept(); });
      return entry;
    }));
    list.hidden = false;
    list.style.left = `${gutter.offsetWidth + 12 + Math.min(context.line.length, 40) * 7.8 - text.scrollLeft}px`;
    list.style.top = `${Math.min(10 + (context.lines.length + 1) * 20.15 - text.scrollTop, text.clientHeight - 60)}px`;
    choose(0);
  };
  let leaving = false;
  text.addEventListener("keydown", (event) => {
    if (event.key === " " && event.ctrlKey) { event.preventDefault(); complete(); return; }
    if (!list.hidden) {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); choose(chosen + (event.key === "ArrowDown" ? 1 : -1)); return; }
      if (event.key === "Enter" || event.key === "Tab") { event.preventDefault(); accept(); return; }
      if (event.key === "Escape") { event.preventDefault(); close(); return; }
    }
    if (event.key === "Escape") { leaving = true; return; }
    if (event.key === "Tab" && !leaving) {
      event.preventDefault();
      const start = text.value.lastIndexOf("\n", text.selectionStart - 1) + 1;
      if (event.shiftKey) { if (text.value.slice(start, start + 2) === "  ") text.setRangeText("", start, start + 2, "preserve"); }
      else text.setRangeText("  ", text.selectionStart, text.selectionEnd, "end");
      text.dispatchEvent(new Event("input"));
    } else if (event.key === "Enter" && !event.ctrlKey) {
      const line = text.value.slice(text.value.lastIndexOf("\n", text.selectionStart - 1) + 1, text.selectionStart);
      const deeper = /:\s*$/.test(line) ? (/^\s*- /.test(line) ? 4 : 2) : 0;
      event.preventDefault();
      text.setRangeText(`\n${" ".repeat(line.length - line.trimStart().length + deeper)}`, text.selectionStart, text.selectionEnd, "end");
      text.dispatchEvent(new Event("input"));
    } else if (event.key.length === 1 && !list.hidden) {
      setTimeout(complete, 0);
    }
    leaving = false;
  });
  text.addEventListener("blur", () => setTimeout(close, 150));

  for (const button of document.querySelectorAll("button[data-inserts]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const start = text.value.lastIndexOf("\n", text.selectionStart - 1) + 1;
      const step = button.dataset.inserts.split("\n").map((line) => (line ? `  ${line}` : line)).join("\n");
      text.setRangeText(step, start, start, "end");
      text.focus();
      text.dispatchEvent(new Event("input"));
    });
  }

  const first = text.value;
  let sent = false;
  text.form.addEventListener("submit", () => { sent = true; });
  window.addEventListener("beforeunload", (event) => { if (!sent && text.value !== first) event.preventDefault(); });
  fit();
})();
