"""Monitors a run: start-up page, metrics buffer, checks of the first step, pictures, scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from depth_anything_jax.checkpoints.bundle import ModelBundle
from depth_anything_jax.data import registry, source_checks
from depth_anything_jax.data.examples import Failure
from depth_anything_jax.data.pseudo_labels import label_store
from depth_anything_jax.data.sources.base import Source, Subset, disparity_of, kind_of
from depth_anything_jax.evaluation.runner import loop, predictors
from depth_anything_jax.evaluation.scores import aggregate
from depth_anything_jax.losses import relative
from depth_anything_jax.models import outputs
from depth_anything_jax.models.outputs import is_metric
from depth_anything_jax.parallel import processes
from depth_anything_jax.parallel.device_programs import (
    DeviceProgram,
    batch_sharding,
    device_program,
    replicated,
)
from depth_anything_jax.training import optim, perturb
from depth_anything_jax.training.metrics_buffer import EMPTY_PART, PARTS
from depth_anything_jax.utils import param_paths
from depth_anything_jax.visualization import strips as drawing

# A larger share of zeros in the first output means a ReLU head that no gradient will ever reach.
DEAD_SHARE = 0.99
# Images of a part from which on a first batch without one usable label stops the run: a single crop
# may lie where the lidar measured nothing, and each start of a run would draw the same crop first.
FIRST_IMAGES = 8
CHECKED_IMAGES = 8  # of each source of eval.data, before the first step
ROWS = 4  # pictures of each part of a batch
NAMES = 100_000  # keys of a source that processes compare at most; takes a tenth of a second
FULL_SHARE = 0.9  # .97 was seen in a run that learned nothing; a fresh head has 1 / pixels


def describe(
    config, mesh, shapes, networks, start: int, meta: dict[str, Any], *, resumed: bool = False
) -> str:
    """Returns the page that is printed before the first step."""
    leaves = param_paths.leaves_by_path(shapes)
    learns = param_paths.leaves_by_path(
        optim.trainable(shapes, (*optim.UNUSED, *config.optim.freeze))
    )
    total = sum(int(np.prod(x.shape)) for x in leaves.values())
    learning = sum(int(np.prod(x.shape)) for p, x in leaves.items() if learns[p])
    dtype = np.dtype(networks.student.encoder.dtype).name
    frozen = [
        n for n, net in (("encoder", networks.frozen_encoder), ("teacher", networks.teacher)) if net
    ]
    head = config.model.head
    if is_metric(networks.student):
        focal = f" at a focal length of {config.camera.focal:g} px" if config.camera.focal else ""
        head += f" up to {config.model.max_depth:g} m{focal}"
    whole = isinstance(config.input_size, tuple)
    pixels = "whole images at {} x {}".format(*config.input_size) if whole else config.input_size
    lines = [
        f"{config.model.variant} {config.model.version} {head}, {total:,} parameters, "
        f"{learning:,} learn; frozen beside it: {', '.join(frozen) or 'nothing'}",
        f"{mesh.size} {jax.devices()[0].platform} devices as data {mesh.shape['data']} x fsdp "
        f"{mesh.shape['fsdp']}, {jax.process_count()} processes; {dtype} compute; batch "
        f"{config.batch_size} of {pixels} px, accumulation {config.accumulation}",
        f"{'continues after' if start else 'starts at'} step {start} of {config.total_steps}",
    ]
    if resumed and config.init_from:
        lines.append(
            f"init_from={config.init_from} is not read again: the run goes on from its own"
        )
    for link in meta.get("licence_chain", []):
        lines.append(f"{link['role']}: {link['source']} ({link['licence']})")
    return "\n".join(lines)


def memory(compiled) -> str:
    """Returns a line about the bytes per device that the compiled step needs."""
    found = compiled.memory_analysis()
    if found is None:
        return "memory: this backend does not report it"
    gib = 2.0**30
    return (
        f"memory per device: {found.argument_size_in_bytes / gib:.2f} GiB of arrays, "
        f"{found.temp_size_in_bytes / gib:.2f} GiB while computing"
    )


def profile_window(config) -> tuple[int | None, int | None]:
    """Returns the first and last step to profile, (None, None) for none."""
    first, last = config.log.profile
    return (first, last) if last > first else (None, None)


def print_failure(failure: Failure) -> None:
    """Prints a line about a record that cannot be read; each process prints its own."""
    several = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    print(f"{several}cannot be read, the next record stands in: {failure}", flush=True)


def check_same_data(found: Mapping[str, Sequence[Source]]) -> None:
    """Refuses several processes that would read different records under one name.

    Counts and keys are compared (of a large source NAMES keys at equal distances, because a missing
    or additional file moves all keys behind it); the contents of the files are not.

    Args:
      found: the sources of each part of the batch.

    Raises:
      ValueError: names the source, and what each process has.
    """
    if jax.process_count() == 1:
        return
    facts = {}
    for part, members in found.items():
        for i, source in enumerate(members):
            shown = range(0, len(source), max(1, len(source) // NAMES))
            digest = label_store.keys_digest(Subset(source, shown))
            facts[f"data.{part}[{i}], {source.name},"] = (
                f"{len(source)} records (names {digest[:8]})"
            )
    processes.check_alike(
        facts, "Every host needs the same files under the same path: docs/scaling.md"
    )


def check_alive(metrics: dict[str, float], sizes: Mapping[str, int]) -> None:
    """Raises FloatingPointError where the first output has a gradient almost nowhere.

    That is: zeros of a ReLU in more than DEAD_SHARE of the pixels, saturation of a sigmoid in more
    than FULL_SHARE; and of FIRST_IMAGES or more images, no label within a metric head's range, or
    no map that contributes. Of fewer, `MetricsBuffer` stops a run after EMPTY such batches.

    Args:
      metrics: of the first step.
      sizes: {"labelled": …, "unlabelled": …}, the images of the batch.
    """
    many = [part for part in PARTS if sizes[part] >= FIRST_IMAGES]
    metric = "labelled/log_bias" in metrics
    if metric and "labelled" in many and metrics["labelled/valid_share"] == 0:
        raise FloatingPointError(
            "no pixel of the first batch has a label between loss.min_depth and model.max_depth "
            "(in canonical metres under camera.focal): nothing is learned from such a batch. Are "
            "the labels in another unit (fmt and scale, docs/data.md)? Else widen the range"
        )
    for part in many:
        if metrics.get(f"{part}/dropped_maps") == 1:
            raise FloatingPointError(f"the first batch: {EMPTY_PART.format(part=part)}")
    for part in PARTS:
        zeros = metrics.get(f"{part}/pred_zero_share", 0.0)
        if zeros > DEAD_SHARE:
            raise FloatingPointError(
                f"{zeros:.1%} of the first {part} prediction is exactly 0: the head's last ReLU is "
                "dead and no gradient will reach it. Start the head from this package's "
                "initialiser (init_parts='encoder'), or another seed"
            )
    largest = metrics.get("labelled/pred_max_share", 0.0)
    ends = largest + metrics.get("labelled/pred_zero_share", 0.0)
    if largest and ends > FULL_SHARE:
        raise FloatingPointError(
            f"{ends:.1%} of the first prediction is its largest depth or 0: the head's sigmoid is "
            "saturated and passes hardly any gradient. The features of these weights are too large "
            "for a new last layer: the relative loss ignores scale, and a high optim.decoder_lr "
            "lets it grow. Train them with a lower one, or take the encoder alone "
            "(init_parts='encoder')"
        )


def strips_program(student, mesh) -> DeviceProgram:
    """(params, images in [0, 1] (b, h, w, 3), n) -> disparity of the first n, everywhere."""

    def disparity(params, images, n):
        return outputs.disparity(student, params, perturb.normalise(images, student.spec))[:n]

    return device_program("train.strips", disparity, mesh, out_shardings=replicated(mesh), static=2)


def gather_program(mesh) -> DeviceProgram:
    """A tree of parameters -> the same, whole on every device."""
    return device_program("train.gather", lambda x: x, mesh, out_shardings=replicated(mesh))


def predictor(student, mesh):
    """(params on the mesh, images in [0, 1] (n, h, w, 3)) -> disparity (n, h, w), in numpy.

    Every process calls it with the same few images, which are distributed over the devices.
    """

    program = strips_program(student, mesh)

    def predict(params, images):
        n = len(images)
        shape = (-(-n // mesh.size) * mesh.size, *images.shape[1:])
        distributed = jax.make_array_from_callback(
            shape, batch_sharding(mesh), lambda index: images[np.arange(shape[0])[index[0]] % n]
        )
        return np.asarray(program(params, distributed, n))

    return predict


def strips(predict, params, batch, keys, *, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Draws image | label | prediction of this process's first rows, for each part.

    `keys`: of each part, its records' keys, which are written above their rows.
    """
    drawn = {}
    for part, x in batch.items():
        x = {k: np.asarray(v[:rows]) for k, v in x.items()}
        if jax.process_count() > 1:  # every process computes, on the rows of process 0
            x = multihost_utils.broadcast_one_to_all(x)
        images = x["image"]
        prediction = predict(params, images)
        if kind_of(x) is not None:
            maps = disparity_of(x), x["valid"], x["sky"], x["shift_known"]
            label, valid = relative.prepare_label(*map(jnp.asarray, maps))
        else:
            label, valid = np.zeros_like(prediction), np.zeros(prediction.shape, bool)
        drawn[part] = drawing.strips(
            images,
            np.asarray(label),
            np.asarray(valid),
            prediction,
            name=part,
            keys=keys[part],
            rows=rows,
        )
    return drawn


class Evaluator:
    """Scores the student on config.eval.data with the evaluator's code, as eval/SET/METRIC.

    Metric heads are scored in metres, unaligned, under the protocol zoe; others under golden. The
    running average of the parameters is scored where there is one. Process 0 scores; the others
    wait. A score that fails is reported on the console, and the run goes on.

    Args:
      student: whose parameters, or their shapes, those of each state replace.

    Attributes:
      names: of the scores.

    Raises:
      ValueError: a source whose first images cannot be scored.
    """

    def __init__(self, config, student: ModelBundle, mesh):
        self._config, self._student = config, student
        found = (
            [registry.make(registry.parse(s)) for s in config.eval.data]
            if config.eval.every
            else []
        )
        source_checks.check(
            found, metres=student.is_metric, cameras=bool(config.camera.focal), field="eval.data"
        )
        self._sources: dict[str, Source] = {}
        for source in found:
            name, number = source.name, 2
            while name in self._sources:
                name, number = f"{source.name} ({number})", number + 1
            self._sources[name] = source
        self._gather = gather_program(mesh)
        self._protocol = "zoe" if student.is_metric else "golden"
        self._wanted = ("abs_rel", "rmse", "delta1") if student.is_metric else loop.METRICS
        self.names = [f"eval/{name}/{score}" for name in self._sources for score in self._wanted]
        if jax.process_index() == 0:
            for source in found:
                self._check(source)

    def _check(self, source: Source) -> None:
        """Scores the labels of the first images against themselves, without the network."""
        count = min(self._config.eval.limit or len(source), len(source), CHECKED_IMAGES)
        first = Subset(source, range(count))
        try:
            points = count and "points" in first[0]
            kind = "metric" if self._student.is_metric else "disparity-affine"
            labels = predictors.make("baseline:zero" if points else "baseline:gt", kind=kind)
            loop.evaluate_candidate(labels, first, protocol=self._protocol)
        except Exception as error:
            raise ValueError(
                f"eval.data: {source.name} cannot be scored: {type(error).__name__}: {error}. "
                "Correct its labels, name another source, or set eval.every=0"
            ) from error

    def __call__(self, state) -> dict[str, float]:
        """Returns the scores of the state's parameters."""
        params = jax.device_get(self._gather(state.params if state.ema is None else state.ema))
        if jax.process_index():
            processes.meet(f"scores after step {int(state.step)}")
            return {}
        candidate = predictors.of_bundle(dataclasses.replace(self._student, params=params))
        size = {} if candidate.own_size else {"input_size": self._config.input_size}
        scalars: dict[str, float] = {}
        for name, source in self._sources.items():
            try:
                scores = loop.evaluate_candidate(
                    candidate,
                    source,
                    protocol=self._protocol,
                    switches=size,
                    limit=self._config.eval.limit,
                )
            except Exception as error:  # hours of training are worth more than a score
                print(
                    f"step {int(state.step)}: {name} could not be scored, the run goes on: "
                    f"{type(error).__name__}: {error}",
                    flush=True,
                )
                continue
            means = aggregate.means(scores.per_image)
            scalars |= {f"eval/{name}/{score}": means[score] for score in self._wanted}
        processes.meet(f"scores after step {int(state.step)}")
        return scalars
