"use strict";
// Tables sort at a click on a heading and are filtered by words. Without this script the page
// holds the same numbers.
const text = cell => cell.firstChild ? cell.firstChild.textContent.trim() : "";
const number = words => {
  const found = words.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
  return found ? Number(found[0]) : NaN;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (a === "-" || b === "-") return (a === "-") - (b === "-");
  return isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", {numeric: true}) : x - y;
};

function makeSortable(table) {
  const body = table.tBodies[0], original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = {none: "descending", descending: "ascending", ascending: "none"};
      const next = order[head.ariaSort || "none"];
      for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
      head.ariaSort = next;
      const sign = next === "descending" ? -1 : 1;
      const rows = next === "none" ? original : original.slice().sort((a, b) => {
        const [x, y] = [text(a.cells[place]), text(b.cells[place])];
        return x === "-" || y === "-" ? compare(x, y) : sign * compare(x, y);
      });
      body.append(...rows);
      mark(table);
    });
  });
}

function mark(table) {
  const sorted = [...table.tHead.rows[0].cells].some(h => h.ariaSort && h.ariaSort !== "none");
  const hidden = [...table.tBodies[0].rows].some(row => row.hidden);
  table.classList.toggle("rearranged", sorted || hidden);
}

function makeFilterable(table, bar) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 6) return;
  const field = document.createElement("input"), count = document.createElement("output");
  field.type = "search";
  field.placeholder = "Filter rows, e.g. a setting";
  field.ariaLabel = `Filter the rows of ${table.caption.textContent}`;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const own = row.textContent.toLowerCase();
      row.hidden = !words.every(word => own.includes(word));
    }
    const shown = rows.filter(row => !row.hidden).length;
    count.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
    mark(table);
  });
  bar.append(field, count);
}

function stickHeads(table) {
  for (const row of table.rows) {
    let left = 0;
    for (const cell of row.querySelectorAll("th.head, th[scope=row]")) {
      cell.style.left = `${left}px`;
      left += cell.offsetWidth;
    }
  }
}

function update(box) {
  const hidden = box.scrollWidth - box.clientWidth - box.scrollLeft > 2;
  box.previousElementSibling?.querySelector(".cue")?.toggleAttribute("hidden", !hidden);
  const table = box.querySelector("table");
  if (table && matchMedia("(min-width: 40rem)").matches) stickHeads(table);
}

for (const box of document.querySelectorAll(".scroll")) {
  const bar = document.createElement("div"), cue = document.createElement("span");
  const table = box.querySelector("table");
  bar.className = "bar";
  if (table) {
    makeSortable(table);
    makeFilterable(table, bar);
  }
  cue.className = "cue";
  cue.textContent = "more to the right →";
  bar.append(cue);
  box.before(bar);
  box.addEventListener("scroll", () => update(box), {passive: true});
  new ResizeObserver(() => update(box)).observe(box);
}

const unfold = () => {
  const target = document.getElementById(location.hash.slice(1));
  const details = target?.closest("details");
  if (details) details.open = true;
};
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
