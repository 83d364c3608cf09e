"""The picture of a field in a browser and on paper."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from eegsr_jax import geometry
from eegsr_jax.errors import ConfigError, RecordingError
from eegsr_jax.evaluation import snapshot, topomap, viewer
from eegsr_jax.evaluation.example import Example
from eegsr_jax.evaluation.scene import Scene

matplotlib.use("agg")

NAMES = tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 Oz O2".split())
OBSERVED = ("Fp1", "Fz", "C3", "C4", "Pz", "O1", "T8")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def make(gaussians=80, points=40, samples=30, *, names=NAMES, skip=True, seed=0) -> Scene:
    """A scene of random numbers of the sizes that EMAG has."""
    rng = np.random.default_rng(seed)
    table = geometry.montage("standard_1005")
    positions = np.stack([table[n] for n in names])
    centre, radius = geometry.fit_sphere(positions)
    shape = len(names), samples
    lower = np.tril(rng.normal(0, 0.005, (gaussians, 3, 3))) + 0.012 * np.eye(3)
    example = Example(
        title="somebody <!--<script>",
        names=names,
        positions=positions,
        sfreq=160.0,
        observed=OBSERVED,
        truth=rng.normal(0, 1e-5, shape),
        mean={"made": rng.normal(0, 1e-5, shape)},
        std={"made": np.full(shape, 3e-6)},
    )
    return Scene(
        example=example,
        field=rng.normal(0, 1e-6, shape),
        skip=skip,
        volts=np.ones(len(names)),
        seconds=7 + np.arange(samples) / 160,
        centres=centre + rng.uniform(-0.6, 0.6, (gaussians, 3)) * radius,
        velocity=rng.normal(0, 0.05, (gaussians, 3)),
        covariance=lower @ lower.swapaxes(1, 2),
        time=rng.uniform(7, 7.2, gaussians),
        rate=rng.uniform(4, 40, gaussians),
        amplitude=rng.normal(0, 1e-6, gaussians),
        point=rng.integers(0, points, gaussians),
        beta=rng.normal(0, 1e-6, (samples, points)),
        count=gaussians,
    )


def numbers(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', html)
    return json.loads(found)


def decoded(array: dict) -> np.ndarray:
    if "float32" in array:
        flat = np.frombuffer(base64.b64decode(array["float32"]), "<f4")
        return flat.reshape(array["shape"])
    whole = np.frombuffer(base64.b64decode(array["int16"]), "<i2").reshape(array["shape"])
    return whole * np.frombuffer(base64.b64decode(array["scale"]), "<f4")[:, None]


# ------------------------------------------------------------------------------------------ page


def test_the_page_is_whole_and_asks_no_network(tmp_path):
    scene = make()
    assert viewer.write_viewer(tmp_path / "field.html", scene) == []
    html = (tmp_path / "field.html").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["field.html"]
    assert not re.findall(r"https?://|@import|\bsrc=|\bhref=|url\(", html)
    assert not re.findall(r"__[A-Z]+__", html) and "somebody <" not in html
    content = numbers(html)
    assert content["title"] == scene.example.title and content["start"] == 7
    assert content["names"] == list(NAMES) and sum(content["missing"]) == 13


def test_numbers_survive(tmp_path):
    scene = make()
    viewer.write_viewer(tmp_path / "field.html", scene)
    arrays = numbers((tmp_path / "field.html").read_text())["arrays"]
    got = {name: decoded(array) for name, array in arrays.items()}
    for name, expected in (
        ("truth", 1e6 * scene.example.truth),
        ("estimate", 1e6 * scene.example.mean["made"]),
        ("field", 1e6 * scene.field),
        ("std", 1e6 * scene.example.std["made"]),
        ("beta", 1e6 * scene.beta.T),
    ):
        used = expected if name != "beta" else expected[np.unique(scene.point)]
        assert np.abs(got[name] - used).max() < 2e-5 * np.abs(used).max()
    np.testing.assert_allclose(got["seconds"], scene.seconds - 7, atol=1e-6)
    centre = geometry.fit_sphere(scene.example.positions)[0]
    np.testing.assert_allclose(got["centres"], 1e3 * (scene.centres - centre), atol=1e-4)


def test_what_a_scene_lacks_is_left_out(tmp_path):
    scene = make(skip=False)
    scene.example.std["made"][:] = np.inf
    viewer.write_viewer(tmp_path / "field.html", scene)
    assert not {"field", "std"} & set(numbers((tmp_path / "field.html").read_text())["arrays"])


def test_emags_usual_size_is_small_and_whole(tmp_path):
    """2 s at 160 Hz of 2016 Gaussians, one a point, 64 channels."""
    names = tuple(geometry.montage("biosemi64"))
    scene = make(2016, 2016, 320, names=names)
    assert viewer.write_viewer(tmp_path / "field.html", scene) == []
    assert (tmp_path / "field.html").stat().st_size < 3e6


def test_what_is_left_out_of_a_large_one_is_said(tmp_path):
    scene = make(5000, 5000, 800)
    left_out = viewer.write_viewer(tmp_path / "field.html", scene)
    assert left_out == [
        "2048 of 5000 Gaussians, those that give most",
        "one sample in 2, 80 Hz",
    ]
    assert (tmp_path / "field.html").stat().st_size < 3e6
    content = numbers((tmp_path / "field.html").read_text())
    assert content["notes"] == left_out and content["sfreq"] == 80
    np.testing.assert_allclose(
        decoded(content["arrays"]["seconds"]), scene.seconds[::2] - 7, atol=1e-6
    )


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "field.html").write_text("mine")
    with pytest.raises(RecordingError, match="field.html: exists"):
        viewer.write_viewer(tmp_path / "field.html", make())
    assert (tmp_path / "field.html").read_text() == "mine"
    viewer.write_viewer(tmp_path / "field.html", make(), overwrite=True)
    assert "<canvas" in (tmp_path / "field.html").read_text()


# --------------------------------------------------------------------------------------- browser

PROBE = """<script>
window.addEventListener("error", e => { document.body.dataset.error = e.message; });
const result = {};
const press = name => new KeyboardEvent("keydown", { key: name, bubbles: true });
const key = (to, name) => to.dispatchEvent(press(name));
const three = [0, 1000, 2600];
go(11);
result.activity = Array.from({ length: gaussians }, (_, n) => activity(n, 11));
result.place = Array.from({ length: gaussians }, (_, n) => place(n, 11));
lookFrom(500, 400);
turn(0, 90); lookFrom(500, 400);
result.top = scene.names.map((_, m) => project(electrode(m)));
result.scale = eye.scale;
turn(-90, 0); lookFrom(500, 400);
result.left = project([0, 50, 30]);
turn(30, 20); lookFrom(500, 400);
result.axes = [eye.right, eye.up];
result.seen = Array.from({ length: gaussians }, (_, n) => seenCovariance(n));
const c = coefficients("estimate", 11);
const value = (x, y) => basis(x, y).reduce((sum, v, i) => sum + v * c[i], 0);
result.map = three.map(q => value(gridX(q), gridY(q)));
result.grid = three.map(q => [gridX(q), gridY(q)]);
key(document.body, "."); result.next = state.frame;
key(document.body, ","); key(document.body, ","); result.before = state.frame;
key($("space"), "ArrowLeft"); result.azimuth = state.azimuth;
key($("space"), "+"); result.zoom = state.zoom;
$("channel").value = 5; $("channel").dispatchEvent(new Event("change"));
result.channel = state.channel;
for (const id of ["shown", "threshold", "opacity", "size", "limit"]) {
  $(id).value = $(id).max; $(id).dispatchEvent(new Event("input"));
}
document.querySelector("[data-view='0,90']").click();
result.view = [state.azimuth, state.elevation];
drawSpace(); drawMaps(); drawTrace();
const [x, y] = project(electrode(9)), at = { clientX: x, clientY: y, pointerId: 1, bubbles: true };
const corner = $("space").getBoundingClientRect();
at.clientX += corner.left; at.clientY += corner.top;
$("space").setPointerCapture = () => {};
for (const kind of ["pointerdown", "pointerup"])
  $("space").dispatchEvent(new PointerEvent(kind, at));
result.clicked = state.channel;
let queue = [];
window.requestAnimationFrame = ask => { queue.push(ask); };
$("play").click(); result.playing = state.playing; result.label = $("play").textContent;
$("speed").value = "0.1"; result.played = [];
for (let now = 0; now <= 2000; now += 50) {
  const due = queue; queue = [];
  for (const ask of due) ask(now);
  result.played.push(state.frame);
}
$("play").click(); result.stopped = !state.playing;
document.body.dataset.result = JSON.stringify(result);
</script>"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What the page's own functions say in a browser."""
    if BROWSER is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    viewer.write_viewer(folder / "field.html", make())
    html = (folder / "field.html").read_text().replace("</body>", PROBE + "</body>")
    (folder / "probe.html").write_text(html)
    words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    command = [
        BROWSER, *words.split(), f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000", "--dump-dom", f"file://{folder / 'probe.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (body,) = re.findall(r"<body[^>]*>", done.stdout)
    assert "data-error" not in body, body
    (found,) = re.findall(r'data-result="(.*?)"', body)
    return json.loads(found.replace("&quot;", '"'))


def test_the_browser_draws_what_the_scene_says(probed):
    scene, sample = make(), np.array([11])
    centre, radius = geometry.fit_sphere(scene.example.positions)
    activity = 1e6 * scene.activity(sample)[0]
    np.testing.assert_allclose(probed["activity"], activity, atol=1e-3)
    place = 1e3 * (scene.places(sample)[0] - centre)
    np.testing.assert_allclose(probed["place"], place, atol=1e-3)
    axes = np.array(probed["axes"])
    seen = 1e6 * axes @ scene.covariance @ axes.T
    np.testing.assert_allclose(probed["seen"], seen[:, [0, 0, 1], [0, 1, 1]], rtol=1e-4)
    head = scene.example.head
    values = topomap.spline(head) @ (1e6 * scene.example.mean["made"][:, 11])
    expected = topomap.basis(np.array(probed["grid"]), head) @ values
    np.testing.assert_allclose(probed["map"], expected, rtol=1e-3, atol=1e-2)


def test_left_is_left_and_the_nose_is_up(probed):
    scene = make()
    centre = geometry.fit_sphere(scene.example.positions)[0]
    x, y = (np.array(probed["top"]) - [250, 200]).T / probed["scale"]
    np.testing.assert_allclose(x, 1e3 * (scene.example.positions - centre)[:, 0], atol=1e-3)
    np.testing.assert_allclose(-y, 1e3 * (scene.example.positions - centre)[:, 1], atol=1e-3)
    assert (
        probed["left"][0] < 250 and probed["left"][1] < 200
    )  # seen from the left: nose to the left


def test_the_controls_do_what_they_say(probed):
    assert (probed["next"], probed["before"]) == (12, 10)
    assert probed["azimuth"] == 35 and probed["zoom"] > 1 and probed["channel"] == 5
    assert probed["view"] == [0, 90]
    assert probed["clicked"] == 9


def test_it_plays_at_the_speed_it_says_and_begins_anew(probed):
    assert probed["playing"] and "Pause" in probed["label"] and probed["stopped"]
    # A tenth of real time: 50 ms of the clock are 5 ms, 0.8 samples at 160 Hz.
    np.testing.assert_allclose(probed["played"][:23], 9.5 + 0.8 * np.arange(23), atol=0.6)
    assert min(probed["played"][23:]) == 0


# ----------------------------------------------------------------------------------------- paper


def test_the_figure_has_a_column_a_time_and_one_scale(tmp_path):
    scene = make()
    made = snapshot.snapshot(scene, np.array([0, 12]))
    images = [ax.images[0] for ax in made.axes if ax.images]
    assert len(images) == 2 * 3  # truth, estimate, field
    limit = 1e6 * scene.limit()
    assert {image.get_clim() for image in images} == {(-limit, limit)}
    assert {image.get_cmap().name for image in images} == {"RdBu_r"}
    assert [ax.get_title() for ax in made.axes[:2]] == ["7.000 s", "7.075 s"]
    head = scene.example.head
    values = topomap.spline(head) @ (1e6 * scene.example.truth[:, 12])
    rows = (
        150 * (head[9] - images[1].get_extent()[0]) / np.ptp(images[1].get_extent()[:2])
    ).astype(int)
    near = topomap.basis(head[9:10], head) @ values
    shown = images[1].get_array()[rows[1] - 2 : rows[1] + 3, rows[0] - 2 : rows[0] + 3]
    assert shown.min() <= near[0] <= shown.max()  # x to the right, y up


def test_the_ellipses_are_the_gaussians():
    from matplotlib.collections import EllipseCollection

    scene = make()
    made = snapshot.snapshot(scene, np.array([12]))
    (blobs,) = [c for c in made.axes[0].collections if isinstance(c, EllipseCollection)]
    centre, radius = geometry.fit_sphere(scene.example.positions)
    share = scene.activity(np.array([12]))[0] / scene.brightness()
    place = (scene.places(np.array([12]))[0] - centre) / radius
    kept = np.abs(share) >= 0.1
    order = np.argsort(place[:, 2])
    order = order[kept[order]]
    np.testing.assert_allclose(blobs.get_offsets(), place[order, :2])
    angle = np.radians(blobs.get_angles())
    major = 0.5 * blobs.get_widths() / snapshot.SIZE * radius
    minor = 0.5 * blobs.get_heights() / snapshot.SIZE * radius
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], -1).reshape(
        -1, 2, 2
    )
    rebuilt = np.einsum("nki,nk,nkj->nij", turn, np.c_[major, minor] ** 2, turn)
    np.testing.assert_allclose(rebuilt, scene.covariance[order][:, :2, :2], rtol=1e-6, atol=1e-12)
    red = blobs.get_facecolors()[:, 0] > blobs.get_facecolors()[:, 2]
    np.testing.assert_array_equal(red, share[order] > 0)


def test_a_png_is_written_once(tmp_path):
    file = tmp_path / "field.png"
    snapshot.write_snapshot(file, make(), np.array([16]))
    assert matplotlib.image.imread(file).shape[0] > 1000
    with pytest.raises(RecordingError, match="field.png: exists"):
        snapshot.write_snapshot(file, make(), np.array([16]))
    assert [p.name for p in tmp_path.iterdir()] == ["field.png"]


def test_a_silent_field_is_drawn_too():
    scene = make(skip=False)
    scene.amplitude[:], scene.beta[:] = 0, 0
    made = snapshot.snapshot(scene, np.array([0]))
    made.canvas.draw()


def test_times_are_found_or_refused():
    scene = make()
    np.testing.assert_array_equal(snapshot.samples_at(scene, [7.0, 7.1, 7.181]), [0, 16, 29])
    with pytest.raises(ConfigError, match=r"--at=7.3: the stretch is 7.000 to 7.181 s"):
        snapshot.samples_at(scene, [7.3])
    with pytest.raises(ConfigError, match="9 times; at most 8"):
        snapshot.samples_at(scene, [7.0] * 9)
