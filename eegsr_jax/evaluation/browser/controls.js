// Time, keys and pointer.

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const at = seconds(state.frame).toFixed(3);
    $("clock").textContent = `${at} s`;
    $("frame").value = state.frame;
    $("frame").setAttribute("aria-valuetext", `${at} seconds`);
    $("shown-out").textContent = `${$("shown").value} of ${scene.count}`;
    $("threshold-out").textContent = `${short(control("threshold") * scene.brightness)} ${scene.unit}`;
    $("opacity-out").textContent = $("opacity").value;
    $("size-out").textContent = `${$("size").value} σ`;
    $("limit-out").textContent = `±${short(scene.limit * control("limit"))} µV`;
    drawSpace(); drawMaps(); drawTrace();
  });
}

function go(frame) { state.frame = Math.max(0, Math.min(frames - 1, frame)); draw(); }

function play(on) {
  state.playing = on;
  $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return;
  let before = null, at = state.frame >= frames - 1 ? 0 : data.seconds[state.frame];
  let f = state.frame >= frames - 1 ? 0 : state.frame, shown = state.frame;
  const tick = now => {
    if (!state.playing) return;
    if (state.frame !== shown) { f = state.frame; at = data.seconds[f]; }  // someone moved the time
    at += before === null ? 0 : Math.min(now - before, 100) / 1e3 * control("speed");
    before = now;
    if (at > data.seconds[frames - 1]) { at = 0; f = 0; }
    while (f < frames - 1 && data.seconds[f + 1] <= at) f++;
    shown = f; go(f);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

function choose(m) { state.channel = m; $("channel").value = m; draw(); }

function turn(azimuth, elevation) {
  state.azimuth = azimuth; state.elevation = Math.max(-90, Math.min(90, elevation)); draw();
}

function zoom(factor) { state.zoom = Math.max(0.5, Math.min(6, state.zoom * factor)); draw(); }

function nearest(x, y) {  // the electrode under the pointer, the nearer one first
  let best = -1, front = -Infinity;
  for (let m = 0; m < channels; m++) {
    const p = electrode(m), [u, v] = project(p);
    if (Math.hypot(u - x, v - y) < 9 && depth(p) > front) { best = m; front = depth(p); }
  }
  return best;
}

function listen() {
  const space = $("space");
  let drag = null;
  space.addEventListener("pointerdown", e => {
    drag = { x: e.offsetX, y: e.offsetY, azimuth: state.azimuth, elevation: state.elevation, moved: false };
    space.setPointerCapture(e.pointerId);
  });
  space.addEventListener("pointermove", e => {
    if (drag) {
      const x = e.offsetX - drag.x, y = e.offsetY - drag.y;
      drag.moved ||= Math.hypot(x, y) > 3;
      if (drag.moved) turn(drag.azimuth - 0.5 * x, drag.elevation + 0.5 * y);
    } else {
      const m = nearest(e.offsetX, e.offsetY);
      if (m !== state.hover) { state.hover = m; draw(); }
    }
  });
  space.addEventListener("pointerup", e => {
    const m = nearest(e.offsetX, e.offsetY);
    if (drag && !drag.moved && m >= 0) choose(m);
    drag = null;
  });
  space.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 600)); }, { passive: false });
  space.addEventListener("keydown", e => {
    const by = { ArrowLeft: [5, 0], ArrowRight: [-5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] }[e.key];
    if (by) turn(state.azimuth + by[0], state.elevation + by[1]);
    else if (e.key === "+" || e.key === "=") zoom(1.1);
    else if (e.key === "-") zoom(1 / 1.1);
    else return;
    e.preventDefault();
  });
  document.addEventListener("keydown", e => {
    const busy = ["BUTTON", "SELECT", "SUMMARY"].includes(e.target.tagName);
    if (e.key === " " && !busy) { play(!state.playing); e.preventDefault(); }
    if (e.key === ",") go(state.frame - 1);
    if (e.key === ".") go(state.frame + 1);
  });
  const trace = $("trace");
  const seek = e => {
    const share = (e.offsetX - margin.left) / (trace.clientWidth - margin.left - margin.right);
    go(Math.round(share * (frames - 1)));
  };
  trace.addEventListener("pointerdown", e => { trace.setPointerCapture(e.pointerId); seek(e); });
  trace.addEventListener("pointermove", e => { if (e.buttons) seek(e); });
  $("play").addEventListener("click", () => play(!state.playing));
  $("frame").addEventListener("input", () => go(control("frame")));
  $("channel").addEventListener("change", () => choose(control("channel")));
  for (const id of ["shown", "threshold", "opacity", "size", "limit"]) $(id).addEventListener("input", draw);
  for (const button of document.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => turn(...button.dataset.view.split(",").map(Number)));
  new ResizeObserver(draw).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); draw(); });
}

function begin() {
  readTheme();
  $("title").textContent = document.title = scene.title;
  const given = scene.missing.filter(m => !m).length;
  $("subtitle").textContent = [`${scene.method}: ${given} electrodes given, ${channels - given} reconstructed`,
    `${scene.count} Gaussians`, `${+scene.sfreq.toPrecision(6)} Hz`,
    ...(scene.notes.length ? [`shown: ${scene.notes.join(", ")}`] : []),
    ...(scene.unit === "σ" ? ["activity in standard deviations of a channel"] : []),
    ...("field" in data ? [`the estimate is the Gaussians' field (${short(100 * scene.share)} % of its power) plus a linear map`] : []),
  ].join(" · ");
  $("frame").max = frames - 1;
  $("shown").max = gaussians; $("shown").value = Math.min(gaussians, 400);
  scene.names.forEach((name, m) => {
    $("channel").add(new Option(`${name} (${scene.missing[m] ? "reconstructed" : "given"})`, m));
  });
  for (const [name, colour] of [["truth", "ink"], ["estimate", "accent"]])
    if (name in data) $("legend").append(Object.assign(document.createElement("span"),
      { textContent: `— ${name}`, style: `color: var(--${colour})` }));
  if (data.std) $("legend").append(Object.assign(document.createElement("span"), { textContent: "band: 90 %" }));
  listen();
  choose(Math.max(0, scene.missing.indexOf(true)));
}

begin();
