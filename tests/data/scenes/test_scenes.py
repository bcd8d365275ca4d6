"""Rendered scenes: the same for the same seed, exact geometry, quick enough, fit for a cache."""

import ast
import multiprocessing
import pickle
import time

import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.scenes import geometry, render, textures
from depth_anything_jax.data.scenes import source as scenes
from depth_anything_jax.data.scenes.geometry import FAR, HeightField, Pack, Solid
from depth_anything_jax.data.scenes.materials import SEM, SEMANTICS, Palette
from depth_anything_jax.data.scenes.render import LAYOUTS
from depth_anything_jax.data.scenes.source import SceneSource, fill_cache

KINDS = ("box", "ball", "cylinder", "cone")


def inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Whether points (3, n) lie in a solid: its definition in float64, without any ray."""
    c, s = np.cos(solid.yaw), np.sin(solid.yaw)
    ct, st = np.cos(solid.tilt), np.sin(solid.tilt)
    yaw = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    tilt = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
    own = (yaw @ tilt).T @ (points - np.array(solid.centre)[:, None])
    x, y, z = own / np.array(solid.half)[:, None]
    if solid.kind == "box":
        return (np.abs(x) <= 1) & (np.abs(y) <= 1) & (np.abs(z) <= 1)
    if solid.kind == "ball":
        return x * x + y * y + z * z <= 1
    radius = 1 if solid.kind == "cylinder" else (1 - z) / 2
    return (x * x + y * y <= radius**2) & (np.abs(z) <= 1)


def random_solid(rng, kind):
    return Solid(
        kind,
        tuple(rng.uniform(-2, 2, 3)),
        tuple(rng.uniform(0.2, 1.5, 3)),
        None,
        0,
        yaw=rng.uniform(-3, 3),
        tilt=rng.uniform(-1, 1),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_first_hit_lies_on_the_surface(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    solids = [random_solid(rng, kind) for _ in range(5)]
    origin = np.array([0, -9, 0.5], np.float32)
    rays = np.stack([rng.uniform(-0.3, 0.3, 700), np.ones(700), rng.uniform(-0.3, 0.2, 700)])
    t, ids = Pack(solids).trace(origin, rays.astype(np.float32))
    # marching in float64 through the definition of "inside"
    steps = np.arange(0, 16, 0.01)
    for k in range(0, 700, 7):
        along = origin[:, None] + rays[:, k : k + 1] * steps
        within = np.any([inside(s, along) for s in solids], axis=0)
        if t[k] == FAR:
            assert within.sum() <= 1, "a miss may at most graze"
            continue
        before = along[:, steps < t[k] - 2e-3]
        assert not np.any([inside(s, before) for s in solids]), "hit something earlier"
        behind = (origin + rays[:, k] * (t[k] + 1e-3))[:, None]
        ahead = (origin + rays[:, k] * (t[k] - 1e-3))[:, None]
        solid = solids[ids[k]]
        # at a grazing hit a step of 1 mm may already be out again
        if within.sum() > 2:
            assert inside(solid, behind)[0] and not inside(solid, ahead)[0]
    assert 0.15 < (t < FAR).mean() < 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_normals_point_outwards_and_across_the_surface(kind):
    rng = np.random.default_rng(7)
    solid = random_solid(rng, kind)
    pack, origin = Pack([solid]), np.array([0, -9, 0.5], np.float32)
    aim = np.array(solid.centre)[:, None] + rng.normal(0, 0.4, (3, 400))
    rays = (aim - origin[:, None]).astype(np.float32)
    t, ids = pack.trace(origin, rays)
    hit = ids == 0
    points = origin[:, None] + t[hit] * rays[:, hit]
    normals, _, _ = pack.surface(0, points)
    np.testing.assert_allclose((normals**2).sum(0), 1, atol=1e-5)  # float32 square roots
    assert (inside(solid, points - 5e-3 * normals)).mean() > 0.98  # but for edges
    assert not inside(solid, points + 5e-3 * normals).any()


def test_culling_changes_nothing(monkeypatch):
    stage = LAYOUTS["courtyard"](np.random.default_rng(3), Palette(np.random.default_rng(3), "any"))
    pack = Pack(stage.solids)
    rng = np.random.default_rng(0)
    origin = np.array([0.2, 0.1, 1.5], np.float32)
    rays = rng.normal(0, 1, (3, 1000)).astype(np.float32)
    light = np.array([0.3, 0.5, 0.81], np.float32)
    points = rng.uniform(-4, 4, (3, 500)).astype(np.float32)

    def everything():
        return (
            *pack.trace(origin, rays),
            pack.occluded(points, light, directional=True, through_shell=False),
            pack.occluded(points, origin, directional=False, through_shell=True),
        )

    culled = everything()
    monkeypatch.setattr(
        geometry, "_members", lambda near, n: ((row, None) for row in range(len(near)))
    )
    for a, b in zip(culled, everything(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 0.05 < culled[2].mean() < 0.95


def test_shadows_agree_with_marching():
    rng = np.random.default_rng(1)
    solids = [random_solid(rng, kind) for kind in KINDS]
    light = np.array([0.36, 0.48, 0.8], np.float32)
    points = rng.uniform(-4, 4, (3, 300)).astype(np.float32)
    points = points[:, ~np.any([inside(s, points) for s in solids], axis=0)]
    dark = Pack(solids).occluded(points, light, directional=True, through_shell=False)
    steps = np.arange(0, 12, 0.005)
    for k in range(points.shape[1]):
        along = points[:, k : k + 1] + light[:, None] * steps
        blocked = np.any([inside(s, along) for s in solids], axis=0).sum()
        if blocked == 0 or blocked > 4:  # a graze shorter than the march's steps may go either way
            assert dark[k] == (blocked > 4)
    assert 0.05 < dark.mean() < 0.95


def test_height_field_hits_lie_on_the_ground():
    rng = np.random.default_rng(2)
    stage = LAYOUTS["terrain"](rng, Palette(rng, "any"))
    ground: HeightField = stage.ground
    origin = np.array([0, 0, float(ground.height(np.zeros(1), np.zeros(1))[0]) + 2], np.float32)
    rays = np.stack([np.ones(900), rng.uniform(-1, 1, 900), rng.uniform(-0.7, 3.0, 900)])
    rays = rays.astype(np.float32)
    t = ground.trace(origin, rays)
    hit = t < FAR
    x, y, z = origin[:, None] + t[hit] * rays[:, hit]
    # twelve halvings of a step of at most .05 + .03 t metres, in float32
    assert np.abs(z - ground.height(x, y)).max() < 1e-3
    for k in np.flatnonzero(hit)[::20]:
        s = np.linspace(0, t[k] * 0.995, 4000)
        x, y, z = origin[:, None] + s * rays[:, k : k + 1]
        assert (ground.height(x, y) - z).max() < 0.02, "passed through a ridge"
    assert 0.3 < hit.mean() < 1


def test_depth_is_along_the_axis():
    camera = render.Camera(
        *(np.array(v, np.float32) for v in ([0, 0, 1], [0, -1, 0], [0, 0, 1], [1, 0, 0])), 0.6
    )
    wall = Solid("box", (5.5, 0, 0), (0.5, 50, 50), None, 0)
    x, y = render._grid(28)
    t, _ = Pack([wall]).trace(camera.origin, camera.rays(x, y))
    np.testing.assert_allclose(t, 5, rtol=1e-5)  # a wall across the view has one depth everywhere


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_records(domain):
    source = SceneSource(domain, 40, seed=3, size=56, semantic=True)
    record, again = source[4], pickle.loads(pickle.dumps(source))[4]
    for field, value in record.items():
        np.testing.assert_array_equal(value, again[field])
    other = SceneSource(domain, 40, seed=4, size=56)[4]
    assert (record["image"] != other["image"]).mean() > 0.3
    assert record["key"] == f"{domain}3/000004" == source.key(4)
    assert record["image"].dtype == np.uint8 and record["image"].shape == (56, 56, 3)
    assert record["depth"].dtype == np.float32 and record["shift_known"] is True
    kinds = set()
    for k in range(8):
        r = source[k]
        assert np.isfinite(r["depth"]).all()
        np.testing.assert_array_equal(r["valid"], ~r["sky"])
        np.testing.assert_array_equal(r["sky"], r["depth"] == 0)
        np.testing.assert_array_equal(r["sky"], r["semantic"] == SEM["sky"])
        kinds |= set(np.unique(r["semantic"]))
        assert r["image"].std() > 5, "nothing to see"
    assert len(kinds) > 5 and max(kinds) < len(SEMANTICS)


def test_unlabelled_records_hold_images_alone():
    assert set(SceneSource("B", 2, size=28, labelled=False)[0]) == {"key", "image", "camera"}


def test_sources_makes_scenes():
    source = registry.make({"type": "scenes", "domain": "A", "count": 3, "size": 28, "seed": 9})
    assert len(source) == 3 and source[2]["image"].shape == (28, 28, 3)
    with pytest.raises(ValueError, match="domain 'D'"):
        registry.make({"type": "scenes", "domain": "D", "count": 3})
    with pytest.raises(ValueError, match="count >= 1"):
        SceneSource("A", 0)
    with pytest.raises(IndexError):
        source[3]


def test_domains_differ_in_look_not_in_geometry_only():
    """B is darker and noisier than A."""
    mean, grain = {}, {}
    for domain in "AB":
        source = SceneSource(domain, 200, size=42)  # 16 say 1.17 of the grain, 64 1.20, 200 1.30
        images = np.stack([source[k]["image"] for k in range(200)])
        mean[domain] = images.mean()
        grain[domain] = np.abs(np.diff(images.astype(float), axis=2)).mean() / images.std()
    assert mean["A"] > 1.3 * mean["B"]
    assert grain["B"] > 1.2 * grain["A"]


def test_cache_gives_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "_CHUNK", 4)
    lines = []
    cached = SceneSource("A", 6, size=28, cache=str(tmp_path), semantic=True)
    direct = [cached[i] for i in range(6)]
    assert fill_cache([cached], processes=1, progress=lambda *x: lines.append(x[:2])) == 8
    assert lines == [(4, 8), (8, 8)]
    assert fill_cache([cached], processes=1) == 0, "a second call renders nothing"
    monkeypatch.setattr(scenes, "render", None)  # from here on only the cache can answer
    monkeypatch.setattr(ast, "literal_eval", None)  # which threads must not use at a time
    for i in range(6):
        for field, value in cached[i].items():
            np.testing.assert_array_equal(value, direct[i][field])
    with pytest.raises(TypeError):
        SceneSource("A", 9, size=28, cache=str(tmp_path))[8]


def test_cache_is_filled_by_processes_and_survives_a_kill(tmp_path):
    source = SceneSource("A", 100, size=14, cache=str(tmp_path))
    half = source.folder / "00001.12345.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half a file")
    assert fill_cache([source], processes=2) == 100
    assert multiprocessing.active_children() == []
    assert np.load(source.folder / "00001.npy").shape == (50,)
    alone = render.render("A", 0, 60, 14)
    np.testing.assert_array_equal(source[60]["depth"], alone["depth"])


def test_textures_are_finite_and_fade_with_distance():
    rng = np.random.default_rng(0)
    own = rng.uniform(-50, 50, (3, 4000)).astype(np.float32)
    normal = np.zeros_like(own)
    normal[2] = 1
    for pattern in textures.PATTERNS:
        material = textures.Material(pattern, ((0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5)))
        near, _ = textures.albedo(material, own, normal, np.full(4000, 1e-3, np.float32))
        far, _ = textures.albedo(material, own, normal, np.full(4000, 50, np.float32))
        assert np.isfinite(near).all() and near.min() >= 0
        assert near.std() > 0.05, f"{pattern} shows nothing"
        if pattern != "books":  # their hues keep a rest
            assert far.std() < 1e-3, f"{pattern} flickers in the distance"


@pytest.mark.nightly
def test_rendering_is_quick():
    for domain in "AB":
        render.render(domain, 1, 0, 112)
        start = time.process_time()
        for i in range(40):
            render.render(domain, 1, i, 112)
        # 40 a second on an idle core; half of it leaves room for slower ones
        assert 40 / (time.process_time() - start) > 12
