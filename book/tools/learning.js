// What a reader commits to stays in this browser; a link to the state of a figure leads to the figure.
// Quizzes need none of this.
(() => {
  "use strict";
  const key = "kd-prediction " + location.pathname.split("/").slice(-2).join("/");
  let said = "";
  try {
    said = localStorage.getItem(key) ?? "";
  } catch {
    // a private window keeps nothing; the prediction lives as long as the page
  }

  function show(form) {
    form.querySelector(".kdq-kept").textContent = said && "Kept in this browser. It comes back beside the result.";
    for (const echo of document.querySelectorAll(".kdq-echo")) {
      echo.hidden = !said;
      echo.textContent = said && "You predicted: " + said;
    }
  }

  for (const form of document.querySelectorAll(".kdq-commit")) {
    const field = form.querySelector("textarea");
    field.value = said;
    form.hidden = false;
    show(form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      said = field.value.trim();
      try {
        said ? localStorage.setItem(key, said) : localStorage.removeItem(key);
      } catch {
        // as above
      }
      show(form);
    });
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.kdq-state");
    if (!link) return;
    const figure = document.getElementById(link.hash.slice(1).split(/[.&]/)[0]);
    figure?.scrollIntoView({ block: "nearest" });
    figure?.querySelector("input, select")?.focus({ preventScroll: true });
  });
})();
