"use strict";
// A page without scripts shows the same numbers, in the order in which they were written.
const value = (cell) => {
  const text = cell.textContent.trim();
  const found = text.replaceAll(",", "").replace("†", "").match(/^[<>]?\s*([+\-−]?\d+(\.\d+)?(e[+-]?\d+)?)/i);
  return found ? Number(found[1].replace("−", "-")) : NaN;
};
const compare = (a, b) => value(a) - value(b);
const empty = (cell) => !cell || ["", "–", "not measured"].includes(cell.textContent.trim());
const sortBy = (table, head, column) => {
  const down = head.getAttribute("aria-sort") === "ascending";
  const rows = [...table.rows].filter((row) => row.querySelector("td"));
  const at = (row) => row.cells[column];
  // Formats begin with digits, too: a column of numbers has nothing else.
  const words = rows.some((row) => !empty(at(row)) && isNaN(value(at(row)))) || column === 0;
  const by = words ? (a, b) => a.textContent.localeCompare(b.textContent, undefined, { numeric: true }) : compare;
  rows.sort((r, s) => {
    const [a, b] = [at(r), at(s)];
    if (empty(a) !== empty(b)) return empty(a) ? 1 : -1; // what is not measured stands last either way
    return down ? by(b, a) : by(a, b);
  });
  for (const each of table.querySelectorAll("th")) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const row of rows) row.parentNode.append(row);
};
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head, column));
    head.append(button);
  });
}
const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("aria-hidden", "true");
tip.hidden = true;
document.body.append(tip);
const light = (key, on) => {
  if (!key) return;
  for (const each of document.querySelectorAll("[data-key]"))
    if (each.dataset.key === key) each.classList.toggle("lit", on);
};
for (const mark of document.querySelectorAll("svg [data-key]")) {
  const title = mark.querySelector("title");
  const words = title.textContent;
  title.remove(); // the browser's own tooltip comes later, and would stand beside this one
  mark.addEventListener("pointerenter", (event) => {
    tip.textContent = words;
    tip.hidden = false;
    const [x, y] = [event.clientX + 14, event.clientY + 14];
    tip.style.left = `${Math.min(x, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y, innerHeight - tip.offsetHeight - 8)}px`;
    light(mark.dataset.key, true);
  });
  mark.addEventListener("pointerleave", () => {
    tip.hidden = true;
    light(mark.dataset.key, false);
  });
}
for (const row of document.querySelectorAll("tr[data-key]")) {
  row.addEventListener("pointerenter", () => light(row.dataset.key, true));
  row.addEventListener("pointerleave", () => light(row.dataset.key, false));
}
