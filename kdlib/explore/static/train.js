// Joins a notebook's figure to the kernel that trains other settings for it. The figure is the page's own and moves
// without it; only what is trained, and how far, comes from here.
const GO = "Train this setting";
const NO_KERNEL = "No kernel is connected to this figure: run its cell again to train other settings.";

function initialize({ model }) {
  const joined = new Map(); // figure -> the function that brings its panel up to date
  let asked = 0; // the number of this browser's last request; the kernel counts those that it has answered
  let lost = false;

  const waits = () => asked > model.get("answered");
  const update = () => joined.forEach((show) => show());

  function lose() {
    lost = true;
    update();
  }

  function gone() {
    const manager = model.widget_manager;
    if (lost || !manager || !("kernel" in manager)) return lost; // not every application tells
    return !manager.kernel || manager.kernel.isDisposed === true || manager.kernel.status === "dead";
  }

  function request(content) {
    lost = gone();
    if (!lost) model.send(content);
    update();
  }

  function join(figure) {
    if (figure.dataset.kernel !== model.get("token") || joined.has(figure)) return;
    const panel = figure.querySelector(".kdx-train");
    const fields = [...panel.querySelectorAll("input")];
    const [go, stop] = panel.querySelectorAll("button");
    const bar = panel.querySelector("progress");
    const said = panel.querySelector(".kdx-said");
    const list = document.createElement("select");
    let heard = model.get("busy") ? "" : model.get("said"); // what ended before this figure came is not news

    // Not the attribute `disabled`, which would take the focus away from who works by keyboard.
    const allow = (button, may) => button.setAttribute("aria-disabled", String(!may));
    const may = (button) => button.getAttribute("aria-disabled") === "false";
    const say = (text, urgent = false) => {
      if (said.textContent === text) return; // a screen reader would read it again
      said.setAttribute("role", urgent ? "alert" : "status");
      said.textContent = text;
    };

    function show() {
      const [none, wait, busy] = [lost, waits(), model.get("busy")];
      go.textContent = none ? GO : wait ? "Waiting for the kernel …" : busy ? "Training …" : GO;
      allow(go, !none && !wait && !busy);
      allow(stop, !none && (wait || busy));
      bar.value = wait ? 0 : model.get("progress");
      if (none) say(NO_KERNEL);
      else if (wait) say("Waiting for the kernel, which is at work on other cells.");
      else if (heard !== model.get("said")) say((heard = model.get("said")), model.get("failed"));
    }

    const [box, label, name] = [panel.querySelector(".kdx-trained"), document.createElement("label"), document.createElement("span")];
    name.className = "kdx-name";
    name.textContent = "shown";
    label.append(name, list);
    box.append(label);

    // A trained setting stays in a list, from which it can be shown again.
    function fill() {
      const trained = model.get("trained");
      const options = trained.map((frame, i) => new Option(frame.state, i));
      list.replaceChildren(new Option("where the controls above stand", -1), ...options);
      box.hidden = false;
    }

    function choose(i) {
      list.value = i;
      i < 0 ? figure.kdx.back() : figure.kdx.put(model.get("trained")[i]);
    }

    function train() {
      if (!may(go) || fields.some((field) => !field.reportValidity())) return;
      asked = model.get("answered") + 1;
      const numbers = Object.fromEntries(fields.map((field) => [field.name, Number(field.value)]));
      request({ train: { at: figure.kdx.at(), numbers } });
    }

    go.addEventListener("click", train);
    fields.forEach((field) => field.addEventListener("keydown", (event) => event.key === "Enter" && train()));
    stop.addEventListener("click", () => may(stop) && request({ stop: true }));
    list.addEventListener("input", () => choose(Number(list.value)));
    figure.querySelector(".kdx-controls").addEventListener("input", () => {
      list.value = -1;
      if (!waits() && !model.get("busy") && !lost) say("");
    });
    model.on("change:trained", () => {
      fill();
      if (asked > 0) choose(model.get("trained").length - 1); // otherwise somebody else asked, in another window
    });
    if (model.get("trained").length) fill();
    say("");
    joined.set(figure, show);
    show();
  }

  const hear = (event) => join(event.detail);
  window.kdx?.trainable.forEach(join); // figures that were there first
  addEventListener("kdx-trainable", hear); // and those that come later
  model.on("change", update);
  model.on("comm_live_update", lose); // the kernel has started anew, or the connection to it was given up
  const watch = setInterval(() => (waits() || model.get("busy")) && !lost && gone() && lose(), 1000);
  return () => {
    clearInterval(watch);
    removeEventListener("kdx-trainable", hear);
    lose();
  };
}

export default { initialize };
