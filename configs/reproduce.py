"""The papers' trainings, for whoever has the chips and the data; docs/reproduce.md has a table.

    python -m depth_anything_jax.train --config=configs/reproduce.py:hypersim    # V2 Table 9
    python -m depth_anything_jax.train --config=configs/reproduce.py:v1_vitl     # vits, vitb, vitl
    python -m depth_anything_jax.train --config=configs/reproduce.py:v2_vits     # vits, vitb, vitl
    python -m depth_anything_jax.train --config=configs/reproduce.py:public_list # 14 million images

The functions below say for each what to prepare, what it takes and what to expect. They are the
shipped teacher.py and student.py with a name, so that nothing is said twice; read those first. V1
is arXiv 2401.10891, V2 arXiv 2406.09414.

Hardware: of each below, on TPU v5e chips of 16 GB. Other slices: docs/tpu.md. Set
    --config.accumulation so that a chip has at most 12 images of ViT-S and ViT-B and 6 of ViT-L.
Time: hours of arithmetic alone at the chips' peak, from programs compiled for the slice
    (`python benchmarks/reproduce_table.py`). Real runs take longer, perhaps twice as long; none has
    been made with this code.
Result: the papers' rows, which none of our runs has been compared with. Score with
    `python -m depth_anything_jax.evaluate --checkpoint RUN --dataset nyu=NYU --protocol da`, and
    the other sets alike (docs/published.md). The authors scored KITTI and NYUv2 under choices that
    they did not publish (docs/protocols.md), so compare the differences between rows first.

Checkpoints to keep: `best/` (--config.checkpoint.keep_best with --config.eval.data), the last, and
the pseudo labels' card.json, which names the teacher.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent
COMMON, TEACHER, STUDENT = (
    runpy.run_path(str(HERE / f"{name}.py")) for name in ("common", "teacher", "student")
)
ONE_SET = tuple(COMMON["MIXTURES"]["v2_labelled"])
SIZES = ("vits", "vitb", "vitl")
PUBLIC_LIST = 14_069_951  # names in the only public list of such images, ZipDepth's, of 17 sets


def get_config(arg: str = "hypersim"):
    """`arg`: one of V2's five labelled sets, v1_SIZE, v2_SIZE (vits, vitb, vitl), public_list."""
    version, _, size = arg.partition("_")
    if arg in ONE_SET:
        c = one_labelled_set(arg)
    elif version in ("v1", "v2") and size in SIZES:
        c = v1_student(size) if version == "v1" else v2_student(size)
    elif arg == "public_list":
        c = public_list()
    else:
        known = [*ONE_SET, *(f"{v}_{s}" for v in ("v1", "v2") for s in SIZES), "public_list"]
        raise ValueError(f"reproduce.py:{arg}: choose one of {', '.join(known)}")
    c.workdir = f"runs/reproduce_{arg}"
    return c


def one_labelled_set(name):
    """A ViT-L on one rendered set: the cheapest of the papers' rows, and a test of everything.

        python tools/prepare_data.py hypersim --source HYPERSIM --out data       # 60,000 images

    V2 Table 9, AbsRel on KITTI and NYUv2: hypersim .086 .054, irs .100 .055, tartanair .094 .063,
    blendedmvs .088 .069, vkitti2 .102 .127; all five .081 .048 (`teacher.py:vitl,v2`). The table
    does not give its length; 160 000 steps of 64 are section 7's of the teacher. They are 170
    epochs of Hypersim, so score on the way and keep the best.
    Hardware: 8 chips, --config.accumulation=2. Time: at least 9 hours.
    """
    c = TEACHER["get_config"]("vitl,v2")
    c.data.labelled = (f"tfds:data/{name}",)
    return c


def v1_student(size):
    """V1's students: 1.5 million labelled images, 62 million with pseudo labels.

        python tools/prepare_data.py SET --source DIR --out data     # the 6 and 8 of common.py
        python -m depth_anything_jax.train --config=configs/teacher.py
        python -m depth_anything_jax.pseudo_label --checkpoint runs/teacher_vitl \\
            --data tfds:data/sa1b --out labels/sa1b                   # and seven more

    V1 Table 2, AbsRel on KITTI and NYUv2: ViT-S .080 .053, ViT-B .080 .046, ViT-L .076 .043. One
    sweep over the unlabelled images (V1 4.1) at 64 labelled + 128 unlabelled, which V1 leaves open.
    Hardware: 8 chips (--config.accumulation=2, of ViT-L 4). Time: at least 9, 28 and 96 hours; the
    teacher before it 27, its labels about as long as a sweep of ViT-L forwards.
    """
    return STUDENT["get_config"](size)


def v2_student(size):
    """V2's students: 62 million images with the labels of a ViT-G trained on rendered images.

        python -m depth_anything_jax.train --config=configs/teacher.py:vitg,v2
        python -m depth_anything_jax.pseudo_label --checkpoint runs/teacher_vitg_v2 \\
            --data tfds:data/sa1b --out labels/sa1b                   # and seven more

    V2 Table 5, rows of pseudo labels alone, AbsRel on KITTI and NYUv2: ViT-S .078 .053, ViT-B .078
    .049, ViT-L .074 .045. 480 000 steps of 192 (section 7).
    Hardware: 8 chips (--config.accumulation=2, of ViT-L 4). Time: at least 9, 30 and 101 hours.
    """
    return STUDENT["get_config"](f"{size},v2")


def public_list():
    """A V1 student at the scale of a list that everybody can download: a quarter of V1's images.

        python tools/prepare_data.py --source "folder:LISTED" --out data --name public
        python -m depth_anything_jax.pseudo_label --checkpoint runs/teacher_vitl \\
            --data tfds:data/public --out labels/public

    LISTED: a folder with (links to) the images that the list names. No table of a paper belongs to
    it; V2 Table 10 has what is near it, a ViT-S on KITTI and NYUv2: rendered labels alone .104
    .084, with SA-1B .092 .067, with all eight sets .085 .054.
    Hardware: 8 chips, --config.accumulation=2. Time: at least 2 hours for one sweep of ViT-S.
    """
    c = STUDENT["get_config"]("vits")
    c.data.unlabelled, c.data.labels = ("tfds:data/public",), ("labels/public",)
    c.total_steps = PUBLIC_LIST // 128
    return c
