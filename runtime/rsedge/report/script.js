"use strict";
// Compares two pictures on top of each other: the first is visible left of the line, the second right of the line.
for (const box of document.querySelectorAll(".compare")) {
  const panes = box.querySelector(".panes");
  const figures = [...panes.querySelectorAll("figure")];
  const line = panes.querySelector(".line");
  const range = panes.querySelector("input[type=range]");
  const choices = box.querySelector(".choices");

  const pair = () => choices.querySelector("input:checked").value.split(" ");

  const move = () => {
    const [first, second] = pair();
    const percent = Number(range.value);
    panes.style.setProperty("--at", percent + "%");
    range.setAttribute("aria-label", first + " left of the line, " + second + " right of it");
    range.setAttribute("aria-valuetext", percent + " % " + first + ", " + (100 - percent) + " % " + second);
  };

  const choose = () => {
    const names = pair();
    for (const figure of figures) {
      const place = names.indexOf(figure.dataset.pane);
      figure.hidden = place < 0;
      figure.classList.toggle("first", place === 0);
    }
    move();
  };

  // Some browsers start to drag a range input only at its thumb; the slider must start anywhere.
  const drag = (event) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    const area = panes.getBoundingClientRect();
    const share = (event.clientX - area.left) / area.width;
    range.value = String(Math.round(100 * Math.min(1, Math.max(0, share))));
    move();
  };

  range.addEventListener("input", move);
  range.addEventListener("pointerdown", drag);
  range.addEventListener("pointermove", drag);
  choices.addEventListener("change", choose);
  box.classList.add("live");
  range.hidden = line.hidden = false;
  choices.hidden = figures.length < 3;
  choose();
}
