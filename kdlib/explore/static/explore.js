// Brings figures to life, in a page and in a notebook: every frame is already here, a move only looks one up.
(() => {
  "use strict";
  if (window.kdx) {
    window.kdx(); // another figure of this page brought the code already
    return;
  }
  const PAUSE = 1000; // ms; moves closer together than this are one step of the browser's history
  const inJupyter = document.getElementById("jupyter-config-data") !== null; // where the address is the application's
  let lastMove = -Infinity;

  const fragment = () => new URLSearchParams(inJupyter ? "" : location.hash.slice(1));

  function remember(id, names, texts) {
    if (inJupyter) return;
    const all = fragment();
    for (const key of [...all.keys()]) {
      if (!key.startsWith("kdx-") || key.startsWith(id + ".")) all.delete(key);
    }
    names.forEach((name, c) => all.set(id + "." + name, texts[c]));
    const now = performance.now();
    const step = now - lastMove < PAUSE ? "replaceState" : "pushState";
    lastMove = now;
    try {
      history[step](history.state, "", location.href.split("#")[0] + "#" + all);
    } catch {
      // a sandboxed frame has no address to write to; the figure works without
    }
  }

  function fillTable(table, data, state) {
    const row = (kind, texts) => {
      const line = document.createElement("tr");
      texts.forEach((text, c) => {
        const cell = document.createElement(kind);
        if (kind === "th") cell.scope = "col";
        if (data.numeric[c]) cell.className = "kdx-number";
        cell.textContent = text;
        line.append(cell);
      });
      return line;
    };
    table.caption.textContent = state;
    table.tHead.replaceChildren(row("th", data.columns));
    table.tBodies[0].replaceChildren(...data.rows.map((texts) => row("td", texts)));
  }

  function start(figure) {
    const part = (name) => figure.querySelector(".kdx-" + name);
    const data = JSON.parse(part("frames").textContent);
    const inputs = [...part("controls").querySelectorAll("input, select")];
    const names = data.controls.map((control) => control.name);
    // The same figure twice on a page: the second one keeps a state of its own.
    const twins = document.querySelectorAll(".kdx-ready#" + figure.id).length;
    const id = figure.id + (twins ? "-" + (twins + 1) : "");
    let shown = data.start.join();

    const textsAt = (at) => data.controls.map((control, c) => control.texts[at[c]]);
    const positions = () => inputs.map((input) => Number(input.value));

    function put(frame, table) {
      shown = "";
      part("picture").src = "data:image/svg+xml," + encodeURIComponent(frame.svg);
      part("picture").alt = frame.sentence;
      part("sentence").textContent = frame.sentence;
      part("state").textContent = frame.state;
      const details = figure.querySelector("details");
      if (!details) return;
      details.hidden = !table;
      if (table) fillTable(details.querySelector("table"), table, frame.state);
    }

    function show(at) {
      at.forEach((i, c) => {
        const text = data.controls[c].texts[i];
        inputs[c].value = i;
        if (inputs[c].type !== "range") return;
        inputs[c].setAttribute("aria-valuetext", text);
        inputs[c].closest(".kdx-control").querySelector("output").value = text;
      });
      if (at.join() === shown) return; // nothing to announce
      const index = at.reduce((sum, i, c) => sum * data.controls[c].texts.length + i, 0);
      const frame = data.frames[index];
      put(frame, data.tables[frame.table]);
      shown = at.join();
    }

    function recall() {
      const all = fragment();
      show(
        data.controls.map((control, c) => {
          const i = control.texts.indexOf(all.get(id + "." + control.name));
          return i < 0 ? data.start[c] : i;
        }),
      );
    }

    inputs.forEach((input) =>
      input.addEventListener("input", () => {
        const at = positions();
        show(at);
        remember(id, names, textsAt(at));
      }),
    );
    if (inJupyter) {
      // Keys without Ctrl and the like are the figure's; the notebook would take arrows and letters for commands.
      figure.addEventListener("keydown", (event) => {
        const modified = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
        if (!modified && event.key !== "Escape") event.stopPropagation();
      });
    } else {
      addEventListener("popstate", recall);
      addEventListener("hashchange", recall);
    }
    figure.classList.add("kdx-ready");
    part("controls").hidden = false;
    recall();
    if (inJupyter && part("train")) {
      figure.kdx = {
        at: positions,
        put: (frame) => put(frame, frame.table), // a frame from outside the grid, until a control moves
        back: () => show(positions()),
      };
      part("train").hidden = false;
      window.kdx.trainable.add(figure); // its kernel (train.js) may come before it or after it
      dispatchEvent(new CustomEvent("kdx-trainable", { detail: figure }));
    }

    // A link to a state leads to its figure; a reload stays where the reader was.
    const [first] = fragment().keys();
    const [visit] = performance.getEntriesByType("navigation");
    if (first?.startsWith(id + ".") && visit?.type === "navigate") {
      const go = () => figure.scrollIntoView({ behavior: "instant" });
      document.readyState === "complete" ? go() : addEventListener("load", go);
    }
  }

  window.kdx = () => document.querySelectorAll("figure.kdx:not(.kdx-ready)").forEach(start);
  window.kdx.trainable = new Set();
  window.kdx();
})();
