// Scalp maps and the trace.

const RdBu = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582",
  "#d6604d", "#b2182b", "#67001f"].map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
const colours = Array.from({ length: 256 }, (_, i) => {
  const at = i / 255 * 10, low = Math.min(9, Math.floor(at));
  return RdBu[low].map((v, k) => v + (at - low) * (RdBu[low + 1][k] - v));
});
const GRID = 72, terms = channels + 3;
const reach = data.head.reduce((most, v) => Math.max(most, Math.abs(v)), 1.1) + 0.16;
const mapBasis = new Float32Array(GRID * GRID * terms);
for (let q = 0; q < GRID * GRID; q++)
  basis(gridX(q), gridY(q)).forEach((v, i) => { mapBasis[q * terms + i] = v; });
const ear = [[1, 0.18], [1.06, 0.2], [1.09, 0.12], [1.08, 0], [1.09, -0.14], [1.06, -0.25], [1, -0.22]];
const dotSize = channels > 80 ? 1.6 : 2.5;
const tile = Object.assign(document.createElement("canvas"), { width: GRID, height: GRID });

function gridX(q) { return reach * (2 * (q % GRID + 0.5) / GRID - 1); }
function gridY(q) { return reach * (1 - 2 * (Math.floor(q / GRID) + 0.5) / GRID); }

function basis(x, y) {  // as topomap.basis
  const out = new Float64Array(terms);
  for (let m = 0; m < channels; m++) {
    const s = (x - data.head[2 * m]) ** 2 + (y - data.head[2 * m + 1]) ** 2;
    out[m] = 0.5 * s * Math.log(Math.max(s, 1e-9));
  }
  out.set([1, x, y], channels);
  return out;
}

function coefficients(name, f) {
  const out = new Float64Array(terms);
  for (let i = 0; i < terms; i++)
    for (let m = 0; m < channels; m++) out[i] += data.spline[i * channels + m] * signal(name, m, f);
  return out;
}

function paint(name, limit) {
  const pen = tile.getContext("2d"), image = pen.createImageData(GRID, GRID);
  const c = coefficients(name, state.frame);
  for (let q = 0; q < GRID * GRID; q++) {
    let v = 0;
    for (let i = 0; i < terms; i++) v += mapBasis[q * terms + i] * c[i];
    const [r, g, b] = colours[Math.max(0, Math.min(255, Math.round(127.5 * (1 + v / limit))))];
    image.data.set([r, g, b, 255], 4 * q);
  }
  pen.putImageData(image, 0, 0);
}

function drawMaps() {
  const { pen, width, height } = sheet("maps"), limit = scene.limit * control("limit");
  const side = Math.min(width / maps.length, height - 56);
  maps.forEach((name, k) => {
    const x = width * (k + 0.5) / maps.length;
    pen.fillStyle = theme.ink; pen.textAlign = "center"; pen.fillText(caption[name], x, 12);
    paint(name, limit);
    drawMap(pen, x, 18 + side / 2, side / 2 / reach);
  });
  drawColourBar(pen, width / 2, height - 24, Math.min(260, 0.6 * width), limit);
}

function drawMap(pen, x, y, r) {
  const at = (u, v) => [x + r * u, y - r * v], head = m => at(data.head[2 * m], data.head[2 * m + 1]);
  pen.save();
  path(pen, Array.from({ length: data.outline.length / 2 }, (_, i) => at(data.outline[2 * i], data.outline[2 * i + 1])), true);
  pen.clip();
  pen.imageSmoothingQuality = "high";
  pen.drawImage(tile, x - r * reach, y - r * reach, 2 * r * reach, 2 * r * reach);
  pen.restore();
  pen.strokeStyle = theme.soft; pen.lineWidth = 1.2;
  path(pen, circle(90, a => at(Math.cos(a), Math.sin(a)))); pen.stroke();
  path(pen, [at(-0.16, 0.987), at(0, 1.13), at(0.16, 0.987)]); pen.stroke();
  for (const s of [-1, 1]) { path(pen, ear.map(([u, v]) => at(s * u, v))); pen.stroke(); }
  for (let m = 0; m < channels; m++) {
    path(pen, circle(12, a => [head(m)[0] + dotSize * Math.cos(a), head(m)[1] + dotSize * Math.sin(a)]));
    pen.fillStyle = scene.missing[m] ? "#fff" : "#111"; pen.fill();
    pen.lineWidth = 0.9; pen.strokeStyle = "#111"; pen.stroke();
  }
  pen.lineWidth = 2; pen.strokeStyle = "#882255";
  pen.beginPath(); pen.arc(...head(state.channel), 6, 0, 2 * Math.PI); pen.stroke();
}

function drawColourBar(pen, x, y, length, limit) {
  const left = x - length / 2, fade = pen.createLinearGradient(left, 0, left + length, 0);
  RdBu.forEach((c, i) => fade.addColorStop(i / 10, `rgb(${c})`));
  pen.fillStyle = fade; pen.fillRect(left, y, length, 9);
  pen.strokeStyle = theme.line; pen.lineWidth = 1; pen.strokeRect(left, y, length, 9);
  pen.fillStyle = theme.ink; pen.textAlign = "center";
  for (const [share, text] of [[0, `−${short(limit)}`], [0.5, "0"], [1, `${short(limit)} µV`]])
    pen.fillText(text, left + share * length, y + 22);
}

const margin = { left: 46, right: 8, top: 6, bottom: 24 };

function drawTrace() {
  const { pen, width, height } = sheet("trace"), m = state.channel;
  const names = ["truth", "estimate"].filter(n => n in data);
  const band = data.std && scene.missing[m] ? f => 1.645 * signal("std", m, f) : () => 0;
  let most = 1e-9;
  for (let f = 0; f < frames; f++) {
    for (const n of names) most = Math.max(most, Math.abs(signal(n, m, f)));
    most = Math.max(most, Math.abs(signal("estimate", m, f)) + band(f));
  }
  const last = data.seconds[frames - 1] || 1;
  const x = f => margin.left + (width - margin.left - margin.right) * data.seconds[f] / last;
  const y = v => margin.top + (height - margin.top - margin.bottom) * (0.5 - 0.5 * v / (1.05 * most));
  pen.lineWidth = 1; pen.textAlign = "right";
  const tick = step(most / 2.2);
  for (let v = -Math.floor(most / tick) * tick; v <= most; v += tick) {
    pen.strokeStyle = theme.line; path(pen, [[margin.left, y(v)], [width - margin.right, y(v)]]); pen.stroke();
    pen.fillStyle = theme.soft; pen.fillText(+v.toPrecision(3), margin.left - 5, y(v) + 4);
  }
  pen.textAlign = "center";
  const every = step(last / 5);
  for (let s = Math.ceil(scene.start / every - 1e-6) * every; s <= scene.start + last + 1e-6; s += every) {
    const at = margin.left + (width - margin.left - margin.right) * (s - scene.start) / last;
    pen.fillText(+s.toPrecision(6), Math.min(at, width - 16), height - 8);
  }
  pen.textAlign = "left"; pen.fillText("µV", 2, height - 8);
  pen.textAlign = "right"; pen.fillText("s", width - 1, height - 8);
  const all = Array.from({ length: frames }, (_, f) => f);
  if (data.std && scene.missing[m]) {
    path(pen, [...all.map(f => [x(f), y(signal("estimate", m, f) + band(f))]),
      ...all.reverse().map(f => [x(f), y(signal("estimate", m, f) - band(f))])], true);
    pen.globalAlpha = 0.2; pen.fillStyle = theme.accent; pen.fill(); pen.globalAlpha = 1;
    all.reverse();
  }
  for (const n of names) {
    pen.strokeStyle = n === "truth" ? theme.ink : theme.accent; pen.lineWidth = n === "truth" ? 1.3 : 1.6;
    path(pen, all.map(f => [x(f), y(signal(n, m, f))])); pen.stroke();
  }
  pen.strokeStyle = theme.soft; pen.lineWidth = 1.5;
  path(pen, [[x(state.frame), margin.top], [x(state.frame), height - margin.bottom]]); pen.stroke();
}

function step(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  return [1, 2, 5, 10].find(k => k * power >= size) * power;
}
