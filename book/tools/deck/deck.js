// A deck: figures that move, in the state that the lesson opens them in; the addresses of slides stay Reveal's.
(() => {
  "use strict";
  Reveal.initialize({
    hash: false, // a figure that moves writes its state there
    slideNumber: "c/t",
    transition: "none",
    width: 960,
    height: 720,
    margin: 0.03,
    plugins: [RevealNotes],
    keyboardCondition: () => document.activeElement?.tagName !== "SELECT",
  });

  // A clicker's keys turn slides, also after a slider was touched.
  addEventListener(
    "keydown",
    (event) => {
      if (!["PageDown", "PageUp", "Escape"].includes(event.key)) return;
      if (!document.activeElement?.closest(".kdx-controls")) return;
      document.activeElement.blur();
      if (event.key === "Escape") event.stopPropagation();
      event.preventDefault();
    },
    true,
  );

  // A figure is in the deck once, whatever it weighs. A slide that shows it fetches it and puts it into its own state.
  function show(slot) {
    const figure = document.getElementById(slot.dataset.figure);
    if (!figure) return;
    if (figure.parentElement !== slot) slot.append(figure);
    if (slot.dataset.shown) return; // what the lecturer moved stays as it was left
    const { controls } = JSON.parse(figure.querySelector(".kdx-frames").textContent);
    const inputs = [...figure.querySelectorAll(".kdx-control input, .kdx-control select")];
    const state = JSON.parse(slot.dataset.state);
    controls.forEach((control, c) => {
      const at = control.texts.indexOf(state[control.name]);
      if (at < 0) return;
      inputs[c].value = at;
      inputs[c].dispatchEvent(new Event("input"));
    });
    if (document.querySelectorAll(`[data-figure="${slot.dataset.figure}"]`).length === 1) slot.dataset.shown = "1";
  }

  function visit() {
    Reveal.getCurrentSlide()?.querySelectorAll(".deck-figure").forEach(show);
    Reveal.layout(); // a figure that came from another slide changed the height
  }
  Reveal.on("ready", visit);
  Reveal.on("slidechanged", visit);
})();
