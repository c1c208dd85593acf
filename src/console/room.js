// Arranging a room: a tile is dragged to its place or moved with the arrow keys; every move is kept at once.
"use strict";
(() => {
  const scroll = document.querySelector(".room-scroll.arranging");
  const room = scroll && scroll.querySelector(".room");
  if (!room) return;
  const columns = Number(room.dataset.columns);
  const rows = Number(room.dataset.rows);
  const said = document.getElementById("room-said");
  room.classList.add("tall");

  const placeOf = (seat) => {
    const number = (letter) => Number(([...seat.classList].find((name) => new RegExp(`^${letter}\\d+$`).test(name)) || "").slice(1));
    return { column: number("x"), row: number("y") };
  };
  const mark = (seat, place) => {
    for (const name of [...seat.classList]) if (/^[xy]\d+$/.test(name)) seat.classList.remove(name);
    if (place) seat.classList.add(`x${place.column}`, `y${place.row}`);
  };
  const at = (place) => room.querySelector(`.seat.x${place.column}.y${place.row}`);
  // One after the other, as they were made; meanwhile the page that the server has is older than this one (live.js).
  const content = document.getElementById("content");
  const count = (name) => { content.dataset[name] = Number(content.dataset[name] || 0) + 1; };
  let earlier = Promise.resolve();
  const keep = (seat, place) => {
    count("begun");
    earlier = earlier.then(() => tell(seat, place)).catch(() => { said.textContent = "Not kept: the appliance does not answer."; });
    earlier.then(() => count("ended"));
  };
  const tell = async (seat, place) => {
    const name = seat.querySelector("a").textContent;
    const path = `/api/v1/machines/${encodeURIComponent(seat.dataset.machine)}/place`;
    const answer = await fetch(path, place
      ? { method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify({ room: room.dataset.room, ...place }) }
      : { method: "DELETE" });
    if (answer.ok) said.textContent = place ? `${name} stands in column ${place.column}, row ${place.row}.` : `${name} has no place.`;
    else { const problem = await answer.json().catch(() => ({})); said.textContent = `Not kept: ${problem.detail || answer.status}`; }
  };
  const put = (seat, place) => {
    if (place.column < 1 || place.row < 1 || place.column > columns || place.row > rows) return;
    const before = room.contains(seat) ? placeOf(seat) : null;
    const other = at(place);
    if (other === seat) return;
    if (other && before) mark(other, before);
    mark(seat, place);
    room.append(seat);
    keep(seat, place);
  };

  let held = null;
  document.addEventListener("dragstart", (event) => {
    held = event.target.closest && event.target.closest(".seat");
    if (!held) return;
    held.classList.add("held");
    content.classList.add("held");
    event.dataTransfer.setData("text/plain", held.dataset.machine);
    event.dataTransfer.effectAllowed = "move";
  });
  document.addEventListener("dragend", () => {
    if (held) held.classList.remove("held");
    content.classList.remove("held");
    held = null;
  });
  scroll.addEventListener("dragover", (event) => { if (held) event.preventDefault(); });
  scroll.addEventListener("drop", (event) => {
    if (!held) return;
    event.preventDefault();
    const box = room.getBoundingClientRect();
    const gap = 8;
    const column = Math.floor((event.clientX - box.left) / ((box.width + gap) / columns)) + 1;
    const row = Math.floor((event.clientY - box.top) / (84 + gap)) + 1;
    put(held, { column, row });
  });

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    const seat = document.activeElement && document.activeElement.closest(".seat");
    if (!seat) return;
    if (event.key === "Delete" && room.contains(seat)) {
      event.preventDefault();
      mark(seat, null);
      keep(seat, null);
      seat.remove();
      return;
    }
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    if (room.contains(seat)) {
      const { column, row } = placeOf(seat);
      put(seat, { column: column + move[0], row: row + move[1] });
    } else {
      let row = 1;
      let column = 1;
      while (at({ column, row })) { column += 1; if (column > columns) { column = 1; row += 1; } }
      put(seat, { column, row });
    }
    seat.focus();
  });
})();
