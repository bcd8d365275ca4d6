"""configs/metric.py: every word builds, recipes are upstream's, original layouts are read."""

import runpy

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import configs, models
from depth_anything_jax.data import augment, camera, examples, pipeline, registry
from depth_anything_jax.data.sources.base import is_labelled
from depth_anything_jax.data.sources.tfds_writer import encode
from depth_anything_jax.training import config_checks, optim, step
from depth_anything_jax.utils.encoders import DINOV2


def config(arg):
    return runpy.run_path(str(configs.folder() / "metric.py"))["get_config"](arg)


@pytest.mark.parametrize("head", ["sigmoid", "bins"])
@pytest.mark.parametrize("name", ["nyu", "kitti", "hypersim", "vkitti2", "folder", "demo"])
def test_every_set_and_head_builds_and_passes_the_checks(name, head, tmp_path):
    c = config(f"{name},head={head}" + ("" if name == "demo" else ",vitb"))
    assert (c.model.head, c.model.variant) == (head, "demo" if name == "demo" else "vitb")
    sizes = config_checks.batch_sizes(c)
    assert sizes["unlabelled"] == 0
    c.data.labelled = ("scenes:A?count=2",)  # what is not there is another test's
    config_checks.check(c, sizes, str(tmp_path))
    optim.schedule(c.optim.schedule, c.total_steps, c.optim.warmup)
    augment.Augment(**config_checks.data_config(c)["augment"])
    assert c.total_steps > 1000 and c.model.max_depth in (10, 20, 80)


def test_recipes_are_upstreams():
    v2, v1 = config("hypersim"), config("nyu,head=bins,vitl")
    assert (v2.optim.encoder_lr, v2.optim.decoder_lr) == (5e-6, 5e-5)
    assert (v2.optim.schedule, v2.optim.clip, v2.loss.silog, v2.init_parts) == (
        "poly", 0.0, "v2", "encoder",
    )  # fmt: skip
    assert v1.optim.bins_lr / v1.optim.encoder_lr == v1.optim.bins_lr / v1.optim.decoder_lr == 50
    assert (v1.optim.schedule, v1.optim.clip, v1.loss.silog, v1.init_parts) == (
        "onecycle", 0.1, "v1", "relative",
    )  # fmt: skip
    assert v1.data.augment.window == "nyu" and v1.data.augment.brightness == (0.75, 1.25)
    assert config("kitti,head=bins").data.augment.brightness == (0.9, 1.1)
    assert config("kitti,head=bins").total_steps == 5 * 23158 // 16


@pytest.mark.parametrize(
    ("words", "init_from", "parts"),
    [
        ("hypersim", "depth-anything/Depth-Anything-V2-Small-hf", "encoder"),
        ("hypersim,init=decoder,vitl", "depth-anything/Depth-Anything-V2-Large-hf", "decoder"),
        ("vkitti2,init=dinov2", "facebook/dinov2-small", "encoder"),
        ("nyu,head=bins", "LiheYoung/depth-anything-small-hf", "relative"),
        ("folder", "depth-anything/Depth-Anything-V2-Small-hf", "decoder"),
        ("demo", "demo-encoder", "encoder"),
        ("demo,head=bins", "runs/teacher_demo", "relative"),
    ],
)
def test_what_it_starts_from(words, init_from, parts):
    c = config(words)
    assert (c.init_from, c.init_parts) == (init_from, parts)
    assert c.model.variant in models.VARIANTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nyuv2", "choose one of nyu, kitti"),
        ("nyu,kitti", "choose one of nyu"),
        ("nyu,head=metric", "head=sigmoid or bins"),
        ("nyu,head=bins,head=sigmoid", "head=sigmoid or bins"),
        ("demo,vitb", "a network of its own: leave vitb out"),
        ("nyu,init=all", "larger where it is nearer.*init=decoder"),
        ("nyu,head=bins,init=encoder", "reads the relative output"),
        ("nyu,init=random", "init=random: choose one of encoder, all, decoder, dinov2"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        config(words)


# Sources in original layouts


def test_btss_lists_of_nyu_and_kitti_are_read_as_they_are(tmp_path):
    image = np.full((12, 16, 3), 99, np.uint8)
    for folder in ("sync/kitchen_0028b", "raw/d/image_02", "gts/d/proj_depth"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "sync/kitchen_0028b/rgb_00045.png"), image)
    cv2.imwrite(str(tmp_path / "raw/d/image_02/7.png"), image)
    millimetres = np.full((12, 16), 2500, np.uint16)
    cv2.imwrite(str(tmp_path / "sync/kitchen_0028b/sync_depth_00045.png"), millimetres)
    cv2.imwrite(str(tmp_path / "gts/d/proj_depth/7.png"), np.full((12, 16), 2560, np.uint16))
    (tmp_path / "nyu.txt").write_text(
        "/kitchen_0028b/rgb_00045.png /kitchen_0028b/sync_depth_00045.png 518.8579\n"
    )
    (tmp_path / "kitti.txt").write_text(
        "d/image_02/7.png d/proj_depth/7.png 721.5377\nd/image_02/8.png None 721.5377\n"
    )
    nyu, kitti = (
        registry.make(registry.parse(f"rgbd:{tmp_path}/{text}"))
        for text in (
            f"nyu.txt?root={tmp_path}/sync&fmt=nyu",
            f"kitti.txt?root={tmp_path}/raw&depth_root={tmp_path}/gts&fmt=kitti",
        )
    )
    assert len(nyu) == len(kitti) == 1
    assert nyu[0]["key"] == "kitchen_0028b/rgb_00045.png"
    np.testing.assert_allclose(nyu[0]["depth"], 2.5)
    np.testing.assert_allclose(kitti[0]["depth"], 10)
    assert (nyu[0]["camera"][0], kitti[0]["camera"][0]) == (518.8579, 721.5377)


def test_an_evaluation_set_can_be_learned_from(tmp_path):
    """vKITTI 2 in its own layout, by the list that V2 trained on."""
    frame = "Scene01/clone/frames/{}/Camera_0/{}_00000.{}"
    for kind, suffix in (("rgb", "jpg"), ("depth", "png")):
        path = tmp_path / frame.format(kind, kind, suffix)
        path.parent.mkdir(parents=True)
        if kind == "rgb":
            cv2.imwrite(str(path), np.full((12, 40, 3), 50, np.uint8))
        else:
            values = np.full((12, 40), 1250, np.uint16)
            values[0] = 65535
            cv2.imwrite(str(path), values)
    (tmp_path / "train.txt").write_text(frame.format("rgb", "rgb", "jpg") + " x\n")
    source = registry.make(
        registry.parse(
            f"benchmark:vkitti2?path={tmp_path}&split=list&list_file={tmp_path}/train.txt"
        )
    )
    record = source[0]
    assert source.name == "vkitti2" and is_labelled(source)
    named = f"benchmark:vkitti2?path={tmp_path}&split=list&list_file={tmp_path}/train.txt&name=mine"
    assert registry.make(registry.parse(named)).name == "mine", "as of every type"
    assert (record["depth"][1:] == 12.5).all()
    assert record["sky"][0].all() and not record["valid"][0].any()
    assert camera.of(record)[0] == 725.0087
    packed = encode(source, 0, encoding="float32", masks=["sky"])
    assert packed["kind"] == "depth" and packed["K"][0] == np.float32(725.0087)
    assert (packed["depth"][1:] == 12.5).all()
    assert (packed["depth"][0] == 0).all()
    reader = examples.Examples(
        "labelled", [source], None, size=14, seed=0, labels=True, patch_size=14
    )
    assert reader.read(0)[0]["disparity"].shape == (14, 14)
    with pytest.raises(ValueError, match="vkitti2 has no option 'splitt'; did you mean 'split'"):
        registry.make(registry.parse(f"benchmark:vkitti2?path={tmp_path}&splitt=list"))
    with pytest.raises(ValueError, match="needs the field 'path'"):
        registry.make(registry.parse("benchmark:vkitti2?split=list"))


def test_a_metric_label_reaches_the_loss_to_the_bit(tmp_path):
    """What is asked for are the values in the file, the range's ends included."""
    c = config("folder")
    near, far = np.float32([c.loss.min_depth, c.model.max_depth])
    values = np.random.default_rng(0).uniform(near, far, (28, 28)).astype(np.float32)
    values[::4], values[1::4], values[2::4] = near, far, np.nextafter(far, np.float32(np.inf))
    assert (1 / (1 / values) != values).any()  # inverted twice, some would differ
    cv2.imwrite(str(tmp_path / "a.png"), np.full((28, 28, 3), 99, np.uint8))
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "list.txt").write_text("a.png a.npy\n")
    data = {"labelled": registry.parse(f"rgbd:{tmp_path}/list.txt"), "metric": True, "threads": 0}
    sizes = {"labelled_batch": 1, "unlabelled_batch": 0, "size": 28}
    with pipeline.train_batches(data, **sizes, seed=0, patch_size=14) as batches:
        batch = next(batches)["labelled"]
    assert batch.keys() == {"image", "depth", "valid", "sky", "shift_known"}
    found = step.metric_inputs(jax.tree.map(jnp.asarray, batch), c, DINOV2)
    asked = np.asarray(found["depth"])[np.asarray(found["valid"])]
    np.testing.assert_array_equal(np.sort(asked), np.sort(values[values <= far]))  # or flipped


# Augmentations


def record(height, width):
    rng = np.random.default_rng(0)
    return {
        "key": "x",
        "image": rng.integers(0, 255, (height, width, 3), np.uint8),
        "depth": rng.uniform(0.1, 1, (height, width)).astype(np.float32),
        "valid": np.ones((height, width), bool),
        "sky": np.zeros((height, width), bool),
        "shift_known": True,
        "camera": np.array([500.0, 500, width / 2, height / 2]),
    }


def test_windows_are_the_fields():
    nyu = augment.crop_window(record(480, 640), "nyu")
    assert nyu["image"].shape[:2] == nyu["valid"].shape == (427, 565)
    np.testing.assert_array_equal(nyu["camera"], [500, 500, 320 - 43, 240 - 45])
    kitti = record(375, 1242)
    cut = augment.crop_window(kitti, "kb")
    np.testing.assert_array_equal(cut["depth"], kitti["depth"][23:, 13:1229])
    np.testing.assert_array_equal(cut["camera"], [500, 500, 621 - 13, 187.5 - 23])
    with pytest.raises(ValueError, match="window 'kb' is rows .* use data.augment.window='none'"):
        augment.crop_window(record(300, 400), "kb")
    other = {**record(480, 640), "valid": np.ones((240, 320), bool)}
    with pytest.raises(ValueError, match="which are 240x320 and 480x640"):
        augment.crop_window(other, "nyu")


def test_a_turned_label_lies_under_its_turned_image():
    r = record(60, 80)
    r["image"] = np.repeat(np.uint8(255 * r["depth"])[..., None], 3, -1)
    smooth = cv2.GaussianBlur(r["image"], (0, 0), 3)
    r["image"], r["depth"] = smooth, smooth[..., 0] / np.float32(255)
    turned = augment.rotated(r, 1.0)
    assert not turned["valid"].all() and turned["valid"].mean() > 0.95  # corners come from outside
    inside = turned["valid"][5:-5, 5:-5]
    assert inside.all()
    apart = turned["image"][5:-5, 5:-5, 0] / 255 - turned["depth"][5:-5, 5:-5]
    assert np.abs(apart).max() < 0.05  # nearest against bilinear of a smooth map
    assert np.abs(turned["image"].astype(int) - smooth).mean() > 0.5  # it has turned
    assert turned["valid"].dtype == np.bool_


class One:
    name, labelled = "one", True

    def __len__(self):
        return 1

    def key(self, index):
        return "x"

    def __getitem__(self, index):
        return record(60, 80)


def test_augmentations_leave_crop_and_flip_as_they_were_and_change_with_the_example():
    def read(how, index=0):
        reader = examples.Examples(
            "labelled", [One()], None, size=28, seed=3, labels=True, augment=how, patch_size=14
        )
        return reader.read(index)[0]

    plain = read(augment.NOTHING)
    colours = augment.Augment(p=1.0, gamma=(0.9, 1.1), brightness=(0.75, 1.25), colour=(0.9, 1.1))
    coloured = read(colours)
    np.testing.assert_array_equal(plain["disparity"], coloured["disparity"])
    assert np.abs(plain["image"] - coloured["image"]).max() > 0.01
    assert coloured["image"].min() >= 0 and coloured["image"].max() <= 1
    again, other = read(colours), read(colours, 1)
    np.testing.assert_array_equal(coloured["image"], again["image"])
    assert other["image"].mean() != coloured["image"].mean()
    images = [read(augment.Augment(p=0.5, brightness=(0.5, 0.6)), i)["image"] for i in range(80)]
    dark = sum(x.mean() < 0.4 for x in images)
    assert 24 < dark < 56
    turned = read(augment.Augment(rotate=20.0))
    assert (turned["disparity"] != plain["disparity"]).mean() > 0.5


def test_gamma_brightness_and_colour_are_within_their_ranges():
    image = np.full((2, 2, 3), 0.5, np.float32)
    how = augment.Augment(p=1.0, gamma=(0.9, 1.1), brightness=(0.75, 1.25), colour=(0.9, 1.1))
    rng = np.random.default_rng(0)
    found = np.array([augment.recolour(rng, image, how)[0, 0] for _ in range(2000)])
    least, most = 0.5**1.1 * 0.75 * 0.9, 0.5**0.9 * 1.25 * 1.1
    assert least < found.min() < 1.1 * least and 0.9 * most < found.max() < most
    assert np.abs(found[:, 0] / found[:, 1] - 1).max() > 0.15  # a factor for each channel


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": "kitti"}, "window='kitti': choose one of none, nyu, kb"),
        ({"gamma": (1.1, 0.9)}, "gamma=.*lowest and highest"),
        ({"rotate": -1.0}, "rotate=-1.0 is in degrees"),
    ],
)
def test_augmentations_that_are_none_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        augment.Augment(**fields)
