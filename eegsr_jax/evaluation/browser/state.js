"use strict";

// The numbers of the page, what the user chose, and how to draw sharply.

const scene = JSON.parse(document.getElementById("scene").textContent);
const $ = id => document.getElementById(id);
const data = Object.fromEntries(Object.entries(scene.arrays).map(([k, a]) => [k, decode(a)]));
const points = scene.arrays.beta.shape[0], frames = scene.arrays.beta.shape[1];
const gaussians = data.time.length, channels = scene.names.length;

function bytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
}

function decode(a) {
  if (a.float32 !== undefined) return new Float32Array(bytes(a.float32));
  const whole = new Int16Array(bytes(a.int16)), scale = new Float32Array(bytes(a.scale));
  const out = new Float32Array(whole.length), columns = a.shape[1];
  for (let i = 0; i < whole.length; i++) out[i] = whole[i] * scale[(i / columns) | 0];
  return out;
}

function activity(n, f) {
  const tau = data.seconds[f] - data.time[n];
  const taken = data.amplitude[n] + data.beta[data.point[n] * frames + f];
  return taken * Math.exp(-0.5 * tau * tau * data.rate[n]);
}

function place(n, f) {
  const tau = data.seconds[f] - data.time[n];
  return [0, 1, 2].map(i => data.centres[3 * n + i] + tau * data.velocity[3 * n + i]);
}

const signal = (name, m, f) => data[name][m * frames + f];

const state = { frame: scene.frame, playing: false, azimuth: -18, elevation: 62, zoom: 1, channel: 0, hover: -1 };
const control = name => +$(name).value;
const seconds = f => scene.start + data.seconds[f];
const maps = ["truth", "estimate", "field"].filter(name => name in data);
const caption = { truth: "truth", estimate: `estimate (${scene.method})`, field: "of it, the Gaussians" };
let theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ground", "panel", "ink", "soft", "line", "accent", "plus", "minus", "skin"])
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  theme.sprites = [theme.minus, theme.plus].map(sprite);
}

function sprite(colour) {  // an ellipsoid seen from anywhere is this disc, stretched
  const canvas = document.createElement("canvas"), size = canvas.width = canvas.height = 128;
  const pen = canvas.getContext("2d"), r = size / 2;
  pen.fillStyle = colour;
  pen.beginPath(); pen.arc(r, r, r - 1, 0, 2 * Math.PI); pen.fill();
  const light = pen.createRadialGradient(r, r, 0, r, r, r - 1);
  light.addColorStop(0, "rgba(255,255,255,0.42)");
  light.addColorStop(0.55, "rgba(255,255,255,0.12)");
  light.addColorStop(0.8, "rgba(0,0,0,0)");
  light.addColorStop(1, "rgba(0,0,0,0.28)");
  pen.globalCompositeOperation = "source-atop";
  pen.fillStyle = light; pen.fillRect(0, 0, size, size);
  return canvas;
}

function sheet(id) {  // a canvas in CSS pixels, sharp on every screen
  const canvas = $(id), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = '12px system-ui, "DejaVu Sans", sans-serif';
  return { pen, width, height, ratio };
}

function path(pen, corners, close = false) {
  pen.beginPath();
  corners.forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y));
  if (close) pen.closePath();
}
