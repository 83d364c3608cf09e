// The head in three dimensions: skull, electrodes, Gaussians.

const circle = (count, point) => Array.from({ length: count + 1 }, (_, i) => point(2 * Math.PI * i / count));
const headLines = [
  circle(72, a => [Math.cos(a), Math.sin(a), 0]),
  circle(72, a => [0, Math.cos(a), Math.sin(a)]),
  circle(72, a => [Math.cos(a), 0, Math.sin(a)]),
];
const headParts = [
  [[-0.16, 0.98, -0.14], [0, 1.22, -0.08], [0, 0.99, 0.14]],
  [[0.16, 0.98, -0.14], [0, 1.22, -0.08], [0, 0.99, 0.14]],
  circle(24, a => [-1.05 + 0.05 * Math.cos(a), 0.12 * Math.cos(a) - 0.03, 0.2 * Math.sin(a) - 0.08]),
  circle(24, a => [1.05 - 0.05 * Math.cos(a), 0.12 * Math.cos(a) - 0.03, 0.2 * Math.sin(a) - 0.08]),
];
let eye = {};  // how millimetres become pixels; kept for picking

function lookFrom(width, height) {
  const a = state.azimuth * Math.PI / 180, e = state.elevation * Math.PI / 180;
  eye = {
    right: [Math.cos(a), Math.sin(a), 0],
    up: [-Math.sin(e) * Math.sin(a), Math.sin(e) * Math.cos(a), Math.cos(e)],
    front: [Math.cos(e) * Math.sin(a), -Math.cos(e) * Math.cos(a), Math.sin(e)],
    scale: 0.4 * Math.min(width, height) * state.zoom / scene.radius,
    x: width / 2, y: height / 2,
  };
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const depth = p => dot(eye.front, p);
const project = p => [eye.x + eye.scale * dot(eye.right, p), eye.y - eye.scale * dot(eye.up, p)];
const onHead = p => p.map(v => v * scene.radius);
const electrode = m => [0, 1, 2].map(i => data.electrodes[3 * m + i]);

function drawSpace() {
  const { pen, width, height, ratio } = sheet("space");
  lookFrom(width, height);
  const near = p => depth(p) >= 0;
  drawSkull(pen, false); drawElectrodes(pen, p => !near(p), 0.4);
  const drawn = drawGaussians(pen, ratio);
  drawSkull(pen, true); drawElectrodes(pen, near, 1);
  pen.fillStyle = theme.soft; pen.textAlign = "left";
  pen.fillText(`${drawn} drawn`, 6, height - 8);
  drawActivityScale(pen, width, height);
}

function drawSkull(pen, front) {
  const [x, y] = project([0, 0, 0]), r = eye.scale * scene.radius;
  const tint = a => `rgba(${theme.skin}, ${a})`;
  const shade = pen.createRadialGradient(x - 0.3 * r, y - 0.35 * r, 0.1 * r, x, y, r);
  shade.addColorStop(0, tint(front ? 0.02 : 0.06)); shade.addColorStop(1, tint(front ? 0.12 : 0.2));
  pen.fillStyle = shade; pen.beginPath(); pen.arc(x, y, r, 0, 2 * Math.PI); pen.fill();
  pen.lineWidth = 1; pen.strokeStyle = tint(front ? 0.45 : 0.22);
  for (const line of headLines) {
    for (let i = 1; i < line.length; i++) {
      const ends = [onHead(line[i - 1]), onHead(line[i])];
      if (depth(ends[0]) + depth(ends[1]) > 0 === front) { path(pen, ends.map(project)); pen.stroke(); }
    }
  }
  for (const part of headParts) {
    const corners = part.map(onHead);
    if (corners.reduce((sum, p) => sum + depth(p), 0) > 0 !== front) continue;
    path(pen, corners.map(project), true);
    pen.fillStyle = tint(front ? 0.28 : 0.16); pen.fill();
    pen.strokeStyle = tint(front ? 0.8 : 0.4); pen.stroke();
  }
  if (front) {
    pen.strokeStyle = tint(0.7); pen.lineWidth = 1.2;
    pen.beginPath(); pen.arc(x, y, r, 0, 2 * Math.PI); pen.stroke();
  }
}

function drawGaussians(pen, ratio) {
  const f = state.frame, threshold = control("threshold"), opacity = control("opacity");
  const list = [];
  for (let n = 0; n < control("shown"); n++) {
    const share = activity(n, f) / scene.brightness;
    if (Math.abs(share) < threshold) continue;
    const at = place(n, f);
    list.push({ n, at, share, depth: depth(at) });
  }
  list.sort((a, b) => a.depth - b.depth);
  const k = ratio * eye.scale * control("size");
  for (const { n, at, share } of list) {
    const [xx, xy, yy] = seenCovariance(n), [x, y] = project(at);
    const a = Math.sqrt(xx), b = xy / a, d = Math.sqrt(Math.max(yy - b * b, 1e-9));
    pen.setTransform(k * a, -k * b, 0, -k * d, ratio * x, ratio * y);
    pen.globalAlpha = opacity * Math.min(1, Math.abs(share));
    pen.drawImage(theme.sprites[share > 0 ? 1 : 0], -1, -1, 2, 2);
  }
  pen.globalAlpha = 1; pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return list.length;
}

function seenCovariance(n) {  // on the screen, mm²: a Gaussian seen from afar is one in the plane
  const c = data.covariance.subarray(6 * n, 6 * n + 6);
  const apply = v => [c[0] * v[0] + c[1] * v[1] + c[2] * v[2], c[1] * v[0] + c[3] * v[1] + c[4] * v[2],
    c[2] * v[0] + c[4] * v[1] + c[5] * v[2]];
  const right = apply(eye.right);
  return [dot(right, eye.right), dot(right, eye.up), dot(apply(eye.up), eye.up)];
}

function drawElectrodes(pen, chosen, alpha) {
  for (let m = 0; m < channels; m++) {
    const p = electrode(m);
    if (!chosen(p)) continue;
    const [x, y] = project(p);
    pen.globalAlpha = alpha; dotAt(pen, x, y, alpha === 1 ? 4.5 : 3.5, m); pen.globalAlpha = 1;
    if (m === state.channel || m === state.hover) label(pen, scene.names[m], x + 9, y - 7);
  }
}

function dotAt(pen, x, y, r, m) {  // filled: given; open: reconstructed
  pen.beginPath(); pen.arc(x, y, r, 0, 2 * Math.PI);
  pen.fillStyle = scene.missing[m] ? theme.panel : theme.ink; pen.fill();
  pen.lineWidth = 1.3; pen.strokeStyle = theme.ink; pen.stroke();
  if (m === state.channel) {
    pen.beginPath(); pen.arc(x, y, r + 3, 0, 2 * Math.PI);
    pen.lineWidth = 2; pen.strokeStyle = theme.accent; pen.stroke();
  }
}

function label(pen, text, x, y) {
  pen.lineWidth = 3; pen.strokeStyle = theme.panel; pen.strokeText(text, x, y);
  pen.fillStyle = theme.ink; pen.fillText(text, x, y);
}

function drawActivityScale(pen, width, height) {
  const x = width - 212, y = height - 16, half = 55;
  for (const [side, colour] of [[-1, theme.minus], [1, theme.plus]]) {
    const fade = pen.createLinearGradient(x + 80, 0, x + 80 + side * half, 0);
    fade.addColorStop(0, "transparent"); fade.addColorStop(1, colour);
    pen.fillStyle = fade; pen.fillRect(x + 80 + Math.min(0, side * half), y, half, 8);
  }
  pen.fillStyle = theme.soft;
  pen.textAlign = "right"; pen.fillText(`−${short(scene.brightness)}`, x + 80 - half - 4, y + 8);
  pen.textAlign = "left"; pen.fillText(`${short(scene.brightness)} ${scene.unit}`, x + 80 + half + 4, y + 8);
  pen.textAlign = "center"; pen.fillText("activity a(t)", x + 80, y - 5);
}

const short = v => v >= 99.5 ? v.toFixed(0) : v.toPrecision(2);
