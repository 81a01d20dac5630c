"""The script of pages: sorts tables by a click on a header, or by Enter or Space.

A table with the class `sortable` is sorted by the attribute `data-value` of the column's cells, or by their text. Numbers are
compared as numbers, empty cells and dashes come last, and rows in `<tfoot>` stay where they are. A header that spans several
columns is not a button. Without scripts, the tables can be read, but not sorted.
"""

SCRIPT = """
"use strict";
(() => {
  const texts = new Intl.Collator("en", { numeric: true });
  const cellAt = (row, column) => {
    let at = 0;
    for (const cell of row.cells) {
      if (at === column) return cell;
      at += cell.colSpan;
    }
    return null;
  };
  const valueOf = (row, column) => {
    const cell = cellAt(row, column);
    const raw = cell ? (cell.dataset.value ?? cell.textContent).trim() : "";
    return ["", "–", "—"].includes(raw) ? null : raw;
  };
  const sort = (table, header, column) => {
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].map(row => [valueOf(row, column), row]);
      const numeric = rows.every(([value]) => value === null || Number.isFinite(Number(value)));
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (numeric ? Number(a) - Number(b) : texts.compare(a, b));
      });
      body.append(...rows.map(([, row]) => row));
    }
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  };
  const prepare = (table, header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    header.addEventListener("click", () => sort(table, header, column));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const rows = table.tHead ? [...table.tHead.rows] : [];
    const taken = rows.map(() => []);
    rows.forEach((row, r) => {
      let column = 0;
      for (const cell of row.cells) {
        while (taken[r][column]) column++;
        for (const line of taken.slice(r, r + cell.rowSpan)) {
          for (let c = column; c < column + cell.colSpan; c++) line[c] = true;
        }
        if (cell.colSpan === 1 && r + cell.rowSpan === rows.length && cell.textContent.trim()) prepare(table, cell, column);
        column += cell.colSpan;
      }
    });
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
"""
