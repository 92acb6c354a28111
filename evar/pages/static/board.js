// Leaderboard: tabs, sorting (DataTables), filters, chosen tasks, details on hover and focus.
"use strict";
(() => {
  class Panel {
    constructor(element, number) {
      this.number = number;
      this.section = element;
      this.first = Number(element.dataset.first); // columns before those of the tasks
      this.data = page.data.panels[number];
      this.form = element.querySelector("form");
      this.status = element.querySelector("[data-status]");
      this.element = element.querySelector("table.board");
      this.rows = [...this.element.tBodies[0].rows];
      this.means = [];
      // Cells by row and task; they stay the same elements when columns are hidden or sorted.
      this.cells = this.rows.map((row) => [...row.cells].slice(this.first));
      this.drawn = false;
      this.form.hidden = false;
      this.listen();
    }

    start() {
      if (this.table) return;
      // Columns are sorted as numbers by data-order; an empty cell (-1) stays below.
      this.table = new DataTable(this.element, {
        paging: false,
        info: false,
        searching: true,
        autoWidth: false,
        order: [[1, "desc"]],
        orderMulti: false,
        layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
        columnDefs: [
          { targets: 0, orderSequence: ["asc", "desc"] },
          { targets: "_all", orderSequence: ["desc", "asc"] },
        ],
        language: { zeroRecords: "No model fits these filters." },
      });
      this.table.search.fixed("filters", (_, __, index) => this.fits(this.rows[index]));
      this.update();
      const charts = this.section.querySelector(".charts");
      if (charts) page.shown(charts, () => this.charts());
    }

    listen() {
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.form.addEventListener("input", () => this.update());
      for (const button of this.form.querySelectorAll("[data-all]")) {
        button.addEventListener("click", () => this.choose(button.dataset.all));
      }
      for (const button of this.form.querySelectorAll("[data-export]")) {
        button.addEventListener("click", () => this.save(button.dataset.export));
      }
    }

    choose(which) {
      this.boxes().forEach((box, i) => {
        box.checked = which === "own" ? this.data.columns[i].average : which === "1";
      });
      this.update();
    }

    boxes() {
      return [...this.form.elements].filter((box) => box.name === "task");
    }

    value(name) {
      return this.form.elements[name] ? this.form.elements[name].value : "";
    }

    fits(row) {
      const { family, origin, size } = row.dataset;
      const words = this.value("search").toLowerCase().split(/\s+/).filter(Boolean);
      const name = this.data.rows[row.dataset.row].name.toLowerCase();
      const range = this.value("size");
      const [low, high] = range.split("-").map(Number);
      const sized = range === "" || (size !== "" && (range === "known" || (low < +size && +size <= high)));
      return sized
        && words.every((word) => name.includes(word))
        && (!this.value("family") || family === this.value("family"))
        && (!this.value("origin") || origin === this.value("origin"));
    }

    // Whether a cell counts: it is there, and not left out since the model has seen the data.
    has(column, number) {
      const cell = this.data.cells[column][number];
      return Boolean(cell) && !(this.unseen && cell[7]);
    }

    leaveOut() {
      const unseen = Boolean(this.form.elements.unseen && this.form.elements.unseen.checked);
      if (unseen === Boolean(this.unseen)) return;
      this.unseen = unseen;
      this.data.cells.forEach((cells, column) => {
        for (const [number, cell] of Object.entries(cells)) {
          if (!cell[7]) continue;
          const shown = this.cells[number][column];
          shown.className = unseen ? "out" : "r";
          shown.dataset.order = unseen ? -1 : cell[0];
        }
      });
      this.table.rows().invalidate("dom");
    }

    update() {
      if (!this.table) return;
      this.leaveOut();
      const chosen = this.boxes().flatMap((box, i) => (box.checked ? [i] : []));
      const only = this.form.elements.only.checked;
      this.averages(chosen);
      this.boxes().forEach((box, i) => {
        const column = this.table.column(this.first + i);
        const visible = !only || box.checked;
        if (column.visible() !== visible) column.visible(visible, false);
      });
      this.table.cells(null, 1).invalidate("dom");
      this.table.draw();
      this.visible = new Set(this.rows.filter((row) => this.fits(row)).map((row) => +row.dataset.row));
      this.shade();
      this.form.querySelector("[data-count]").textContent = `(${chosen.length} of ${this.data.columns.length})`;
      this.status.textContent = `${this.visible.size} of ${this.rows.length} models`;
      if (this.drawn) this.charts();
    }

    averages(chosen) {
      this.rows.forEach((row) => {
        const number = +row.dataset.row;
        const cells = chosen.map((i) => this.data.cells[i][number]);
        const whole = cells.length > 0 && cells.every((cell, i) => this.has(chosen[i], number) && cell[4]);
        const mean = whole ? cells.reduce((sum, cell) => sum + cell[0], 0) / cells.length : null;
        this.means[number] = mean;
        const shown = row.querySelector("td.avg");
        shown.textContent = mean === null ? "" : (100 * mean).toFixed(1);
        shown.dataset.order = mean === null ? -1 : mean;
      });
    }

    rank(column, number) {
      const by = this.data.cells[column][number][3];
      return 1 + by.filter((other) => this.visible.has(other) && this.has(column, other)).length;
    }

    // Ranks and shades are those among the rows that are shown.
    shade() {
      this.data.cells.forEach((cells, column) => {
        const numbers = Object.keys(cells).map(Number).filter((n) => this.visible.has(n) && this.has(column, n));
        const ranks = new Map(numbers.map((n) => [n, this.rank(column, n)]));
        const times = {};
        for (const rank of ranks.values()) times[rank] = (times[rank] || 0) + 1;
        for (const [number, rank] of ranks) {
          const cell = this.cells[number][column];
          cell.className = rank <= 3 ? `r${rank}` : "r";
          cell.querySelector(".rank").textContent = rank + (times[rank] > 1 ? "=" : "");
          const line = cell.querySelector(".tip .of");
          line.textContent = `rank ${rank}, ${times[rank] > 1 ? "shared" : "alone"}, of ${numbers.length} shown`;
        }
      });
    }

    shown() {
      const order = this.table.rows({ order: "applied", search: "applied" }).indexes().toArray();
      const columns = this.data.columns.flatMap((_, i) => (this.table.column(this.first + i).visible() ? [i] : []));
      return { order, columns };
    }

    save(kind) {
      const { order, columns } = this.shown();
      const mean = (n) => (this.means[n] === null ? "" : (100 * this.means[n]).toFixed(1));
      const name = `leaderboard-${this.data.name}`.replace(/[^\w.-]+/g, "_");
      if (kind === "tex") {
        page.save(`${name}.tex`, "application/x-tex", this.latex(order, columns, mean));
        return;
      }
      const text = (cell) => (cell ? [cell[1], cell[2]].filter(Boolean).join(" ") + cell[5] : "");
      const rows = [["model", "average", ...columns.map((i) => this.data.columns[i].name)]];
      for (const n of order) {
        const published = this.data.rows[n].published ? " (published)" : "";
        const cells = columns.map((i) => text(this.has(i, n) && this.data.cells[i][n]));
        rows.push([this.data.rows[n].name + published, mean(n), ...cells]);
      }
      if (kind === "csv") page.save(`${name}.csv`, "text/csv", exporting.csv(rows));
      else page.save(`${name}.md`, "text/markdown", exporting.markdown(rows));
    }

    latex(order, columns, mean) {
      const best = columns.map((i) => {
        const cells = order.filter((n) => this.has(i, n)).map((n) => this.data.cells[i][n]);
        const values = cells.map((cell) => cell[0]);
        return cells.length && !cells[0][6] ? Math.min(...values) : Math.max(...values);
      });
      const rows = order.map((n) => [
        this.data.tex.rows[n],
        mean(n),
        ...columns.map((i, at) => {
          const cell = this.data.cells[i][n];
          return this.has(i, n) ? exporting.texCell({
            text: cell[1], interval: cell[2], marks: cell[5],
            rank: this.rank(i, n), best: cell[0] === best[at],
          }) : "";
        }),
      ]);
      const head = ["Model", "Average", ...columns.map((i) => this.data.tex.columns[i])];
      const caption = "Scores in percent, $\\pm$ 95\\,\\% interval over runs. Best in bold; "
        + "underlined what no test separates from it at the 5\\,\\% level.";
      return exporting.latex(head, rows, caption);
    }

    charts() {
      for (const name of ["parameters", "speed"]) {
        const key = `${name}-${this.number}`;
        const element = document.querySelector(`[data-chart="${key}"]`);
        if (!element) continue;
        const rows = page.data.charts[key].data.values
          .filter((row) => this.visible.has(row.row) && this.means[row.row] !== null)
          .map((row) => ({ ...row, value: 100 * this.means[row.row] }));
        if (rows.length) page.draw(element, key, (spec) => { spec.data.values = rows; });
        else page.clear(element, key, "None of the models shown has all chosen tasks and this number.");
      }
      this.drawn = true;
    }
  }

  const sections = [...document.querySelectorAll(".panel")];
  const panels = sections.map((section, i) => new Panel(section, i));

  function tabs() {
    const list = document.getElementById("tabs");
    const links = [...list.querySelectorAll(".tab")];
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Protocols");
    for (const item of list.children) item.setAttribute("role", "presentation");
    function open(number, focus) {
      links.forEach((link, i) => {
        link.setAttribute("aria-selected", String(i === number));
        link.tabIndex = i === number ? 0 : -1;
        sections[i].hidden = i !== number;
      });
      if (focus) links[number].focus();
      panels[number].start();
    }
    links.forEach((link, i) => {
      link.setAttribute("role", "tab");
      link.setAttribute("aria-controls", sections[i].id);
      sections[i].setAttribute("role", "tabpanel");
      sections[i].setAttribute("aria-labelledby", link.id);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        open(i);
        history.replaceState(null, "", link.getAttribute("href"));
      });
      link.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) open((i + step + links.length) % links.length, true);
        if (event.key === "Home") open(0, true);
        if (event.key === "End") open(links.length - 1, true);
      });
    });
    const named = sections.findIndex((section) => `#${section.id}` === location.hash);
    if (links.length) open(Math.max(named, 0));
  }

  function details() {
    const tip = document.getElementById("tip");
    function show(event) {
      const cell = event.target.closest && event.target.closest(".cell");
      if (!cell) return;
      tip.replaceChildren(...[...cell.querySelector(".tip").children].map((line) => line.cloneNode(true)));
      tip.hidden = false;
      const box = cell.getBoundingClientRect();
      const below = box.bottom + tip.offsetHeight + 8 < innerHeight;
      tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${below ? box.bottom + 4 : Math.max(8, box.top - tip.offsetHeight - 4)}px`;
    }
    const hide = () => { tip.hidden = true; };
    const main = document.getElementById("main");
    main.addEventListener("mouseover", show);
    main.addEventListener("focusin", show);
    main.addEventListener("mouseout", (event) => event.target.closest(".cell") && hide());
    main.addEventListener("focusout", hide);
    addEventListener("keydown", (event) => event.key === "Escape" && hide());
    addEventListener("scroll", hide, true);
  }

  tabs();
  details();
  page.dark.addEventListener("change", () => panels.forEach((panel) => panel.drawn && panel.charts()));
})();
