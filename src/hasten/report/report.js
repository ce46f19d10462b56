"use strict";
// Without this script the page tells the same: marks have titles, pictures stand side by side.

const REACH = 32; // pixels from a mark within which it is meant

function readable(svg, panel) {
  const points = [...svg.querySelectorAll("title")].map((title) => {
    const mark = title.parentNode, text = title.textContent;
    title.remove(); // or the browser would show it as well
    return { mark, text };
  });
  const middle = ({ mark }) => {
    const box = mark.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  points.sort((a, b) => middle(a)[0] - middle(b)[0]);
  let current = Math.max(0, points.findIndex(({ text }) => text === panel.textContent));

  function show(index) {
    points[current].mark.classList.remove("on");
    current = (index + points.length) % points.length;
    points[current].mark.classList.add("on");
    panel.textContent = points[current].text;
  }
  function point(event) {
    const distances = points.map((one) => {
      const [x, y] = middle(one);
      return Math.hypot(x - event.clientX, y - event.clientY);
    });
    const nearest = distances.indexOf(Math.min(...distances));
    if (distances[nearest] <= REACH) show(nearest);
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(current + step);
  });
  show(current);
}

function turning(gallery) {
  const slider = gallery.querySelector("input"), told = gallery.querySelector("output");
  const beside = gallery.querySelector("button");
  const rows = [...gallery.querySelectorAll(".cells")].map((row) => [...row.children]);

  function turn(index) {
    slider.value = index;
    rows.forEach((row) => row.forEach((cell, i) => cell.classList.toggle("shown", i === index)));
    told.textContent = rows[0][index].dataset.title;
    slider.setAttribute("aria-valuetext", told.textContent);
  }
  slider.addEventListener("input", () => turn(Number(slider.value)));
  gallery.querySelector(".rows").addEventListener("click", () => {
    if (gallery.classList.contains("turning")) turn((Number(slider.value) + 1) % rows[0].length);
  });
  beside.addEventListener("click", () => {
    const turns = gallery.classList.toggle("turning");
    slider.disabled = !turns;
    told.style.visibility = turns ? "visible" : "hidden";
    beside.setAttribute("aria-pressed", String(!turns));
  });
  gallery.classList.add("turning");
  gallery.querySelector(".controls").hidden = false;
  turn(0);
}

readable(document.getElementById("plot"), document.getElementById("point"));
document.querySelectorAll(".gallery").forEach(turning);
