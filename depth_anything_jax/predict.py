"""Depth of pictures, folders and videos.

    python -m depth_anything_jax.predict photo.jpg holiday/ 'shots/*.png' clip.mp4 --out depth
    depth-anything photo.heic --out depth --format npy,side-by-side
    depth-anything room.jpg --out depth --format ply --checkpoint \\
        depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf
    cat photo.jpg | depth-anything - --out depth

--checkpoint is a hub id, a file, a folder or a training run; without it V2-Small from the Hugging
Face Hub. Names below --out follow the inputs: holiday/a.jpg gives holiday/a.depth.png, a.color.png
(--format). docs/use.md says what is in the files.

Relative models give inverse depth up to scale and shift: near is white. Metric models give metres,
which are never stretched. What cannot be read is named at the end, the rest is done, and the exit
code is then 1.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

FACTS = "predict.json"  # in the output folder: with what its files were made


@dataclasses.dataclass(frozen=True)
class Options:
    """What changes the numbers, besides the style; see `DepthAnything`.

    Attributes:
      input_size: short side of the network's input, pixels.
      buckets: lengths of its longer side, or how many; 0: exact shapes.
      tile: side of tiles, pixels of the picture; 0: none.
      smooth: of videos: relative maps keep scale and shift from frame to frame.
      max_len, target_fps, max_res: of videos: frames, frames a second, pixels of the longer side.
    """

    input_size: int = 518
    buckets: int | Sequence[int] = 0
    tile: int = 0
    smooth: bool = True
    max_len: int | None = None
    target_fps: float | None = None
    max_res: int | None = None


class Problems(list):
    """(name, what is wrong) of inputs that gave no depth, in the order they came."""

    def add(self, name: str, error: BaseException) -> None:
        """Keeps one."""
        text = str(error) or type(error).__name__
        self.append((name, text.removeprefix(f"{name}: ")))

    def __str__(self) -> str:
        lines = [f"{len(self)} of the inputs failed:"]
        return "\n".join(lines + [f"  {name}: {text}" for name, text in self])


def predict(
    model: Any,
    items: Sequence[Any],
    out: pathlib.Path,
    style: Any,
    options: Options,
    *,
    stdin: Callable[[], bytes] = lambda: sys.stdin.buffer.read(),
) -> Problems:
    """Writes the depth of all items, pictures first; returns those that failed.

    Args:
      model: a DepthAnything.
      items: `api.folders.Item`s.
      out: folder.
      style: an `api.outputs.Style`.
      options: see there.
      stdin: gives the bytes of the item "-".
    """
    problems = Problems()
    stills = [item for item in items if not item.video]
    if stills:
        _pictures(model, stills, out, style, options, problems, stdin)
    for item in items:
        if item.video:
            _video(model, item, out, style, options, problems)
    return problems


def _pictures(
    model: Any,
    items: Sequence[Any],
    out: pathlib.Path,
    style: Any,
    options: Options,
    problems: Problems,
    stdin: Callable[[], bytes],
) -> None:
    from depth_anything_jax.api import folders, outputs

    pictures = [stdin() if i.source == folders.STDIN else i.source for i in items]
    shared = style.range == "shared" and set(outputs.COLOURED) & set(style.formats)
    later = [f for f in style.formats if shared and f in outputs.COLOURED]
    now = [f for f in style.formats if f not in later]
    ranges: list[tuple[float, float]] = []
    focals: collections.Counter[str] = collections.Counter()
    drawn = []  # numbers of the pictures whose colours wait for the others'

    with (
        tempfile.TemporaryDirectory(prefix=".maps.", dir=out) as waiting,
        _Saver(problems) as saver,
        _bar(len(items), "picture") as bar,
    ):

        def write(index: int, depth: Any) -> None:
            focals[outputs.write(depth, out, items[index].stem, style, now)] += 1
            if later:
                kept = depth if "side-by-side" in later else dataclasses.replace(depth, image=None)
                _keep(kept, pathlib.Path(waiting) / f"{index}.npz")
                ranges.append(depth.colour_range)
                drawn.append(index)

        for index, result in _stream(model, pictures, style, options):
            if isinstance(result, Exception):
                problems.add(items[index].source, result)
            else:
                saver.submit(items[index].source, write, index, result)
            bar.update()
        saver.wait()
        limits = outputs.joined(ranges, model.unit is not None)
        final = dataclasses.replace(style, range=limits)
        for index in sorted(drawn):
            depth = _kept(pathlib.Path(waiting) / f"{index}.npz")
            outputs.write(depth, out, items[index].stem, final, later)
        if limits:
            print(f"colours from {limits[0]:.4g} to {limits[1]:.4g} {model.unit or ''}".rstrip())
        if named := [f"{who} ({count})" for who, count in focals.items() if who]:
            print(f"focal lengths of the points: {', '.join(named)}")


def _stream(model: Any, pictures: list, style: Any, options: Options):
    """(index, Depth or Exception) of each picture; when the network fails, the pictures that are
    left come one by one, so that only those it fails on are lost."""
    given = dict(
        input_size=options.input_size,
        buckets=options.buckets,
        tile=options.tile,
        intrinsics=style.intrinsics,
    )
    left = dict.fromkeys(range(len(pictures)))
    try:
        for index, result in model.stream(pictures, keep_images=style.needs_image, **given):
            left.pop(index)
            yield index, result
    except RuntimeError as error:
        print(f"\n{error}\nThe {len(left)} pictures that are left go one by one.", file=sys.stderr)
    for index in left:
        try:
            yield index, model(pictures[index], **given)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            yield index, error


def _video(
    model: Any, item: Any, out: pathlib.Path, style: Any, options: Options, problems: Problems
) -> None:
    from depth_anything_jax.api import outputs
    from depth_anything_jax.video import process

    targets = outputs.video_outputs(out, item.stem, style)
    (out / item.stem).parent.mkdir(parents=True, exist_ok=True)
    metric = model.unit is not None

    def frames(images: Sequence[Any]) -> list[Any]:
        found = model(
            list(images),
            input_size=options.input_size,
            tile=options.tile,
            intrinsics=style.intrinsics,
        )
        return [depth.depth for depth in found]

    try:
        with _bar(None, "frame", item.source) as bar:

            def progress(done: int, count: int | None) -> None:
                bar.total = count
                bar.update(done - bar.n)

            report = process.process(
                item.source,
                targets,
                frames,
                metric=metric,
                smooth=options.smooth,
                limits=_ordered(style.range or "shared"),
                paint=_painter(style, metric),
                depth_scale=style.png_scale,
                max_len=options.max_len,
                target_fps=options.target_fps,
                max_res=options.max_res,
                progress=progress,
            )
    except (OSError, ValueError, RuntimeError) as error:
        problems.add(item.source, error)
        return
    for note in report.notes:
        print(f"{item.source}: {note}")
    if report.flicker_before is not None:
        print(
            f"{item.source}: flicker {report.flicker_before:.4f} as the network said it, "
            f"{report.flicker_after:.4f} as written; {len(report.cuts)} cuts"
        )
    for problem in report.problems:
        problems.add(item.source, ValueError(f"{problem}; the {report.frames} frames before"))


def _painter(style: Any, metric: bool) -> Callable[[Any, tuple[float, float]], Any]:
    """A map and (low, high) → RGB uint8, in the style's colours."""
    import numpy as np

    from depth_anything_jax.api import recipe
    from depth_anything_jax.api.depth import Depth

    kind = recipe.METRIC if metric else recipe.RELATIVE

    def paint(values: Any, limits: tuple[float, float]) -> Any:
        near, far = limits if metric else limits[::-1]
        if near == far:
            far = near + 1 if metric else near - 1
        picture = Depth(values, kind).to_pil(style.colormap, range=(near, far), invert=style.invert)
        return np.asarray(picture.convert("RGB"))

    return paint


def _ordered(limits: Any) -> Any:
    """Low and high of near and far; a word as it is."""
    return limits if isinstance(limits, str) else (min(limits), max(limits))


def _keep(depth: Any, path: pathlib.Path) -> None:
    import numpy as np

    depth.save(path)
    if depth.image is not None:
        np.save(path.with_suffix(".image.npy"), depth.image)


def _kept(path: pathlib.Path) -> Any:
    import numpy as np

    from depth_anything_jax.api.depth import Depth

    depth, image = Depth.load(path), path.with_suffix(".image.npy")
    return dataclasses.replace(depth, image=np.load(image)) if image.exists() else depth


class _Saver:
    """Writes files in threads beside the network; few wait, so that memory stays bounded."""

    def __init__(self, problems: Problems):
        self._problems = problems
        self._threads = min(4, os.cpu_count() or 1)
        self._waiting: collections.deque[tuple[str, concurrent.futures.Future]] = (
            collections.deque()
        )

    def __enter__(self) -> "_Saver":
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, name: str, call: Callable[..., None], *args: Any) -> None:
        self._waiting.append((name, self._pool.submit(call, *args)))
        while len(self._waiting) > 2 * self._threads:
            self._finish()

    def wait(self) -> None:
        while self._waiting:
            self._finish()

    def _finish(self) -> None:
        name, future = self._waiting.popleft()
        try:
            future.result()
        except (OSError, ValueError, ImportError) as error:
            self._problems.add(name, error)


def _bar(count: int | None, unit: str, name: str = "") -> Any:
    from tqdm import tqdm

    return tqdm(total=count, unit=unit, desc=name or None, dynamic_ncols=True, smoothing=0.1)


# What is there already


def prepare(
    out: pathlib.Path,
    items: Sequence[Any],
    style: Any,
    facts: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> list[Any]:
    """The items that are still to be done; makes the folder and writes down the facts.

    Raises:
      ValueError: files of these names are there and neither `resume` nor `overwrite` says what to
        do; `resume` of files that were made otherwise.
    """
    from depth_anything_jax.api import outputs

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; name a folder")
    wanted = {i: outputs.paths(out, i.stem, style, video=i.video) for i in items}
    there = [path for files in wanted.values() for path in files if path.exists()]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{len(there)} of the files are there already, {there[0]} first: --resume makes those "
            "that are missing, --overwrite makes all again"
        )
    record = out / FACTS
    if resume and record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [k for k in {**before, **facts} if before.get(k) != facts.get(k)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"--resume: what is in {out} was made with {name}={before.get(name)!r}, and now it "
                f"is {facts.get(name)!r}; use the same, another --out, or --overwrite"
            )
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if not resume:
        return list(items)
    return [i for i, files in wanted.items() if not all(path.exists() for path in files)]


# The command line


def main() -> None:
    """The command line; see the module's docstring and --helpshort."""
    from absl import app, flags, logging

    from depth_anything_jax import weight_flags

    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    yes = flags.DEFINE_boolean
    out = text("out", None, "folder for the results", required=True)
    checkpoint = text("checkpoint", None, "hub id, file, folder or run; else V2-Small of the hub")
    formats = flags.DEFINE_list(
        "format",
        ["png16", "color"],
        "png16, npy, npz, pfm, exr, color, side-by-side, ply, glb; several with commas",
    )
    size = number("size", 518, "shorter side of the network's input, pixels")
    buckets = number("buckets", 0, "lengths that the longer side may have; 0: exact shapes")
    tile = number("tile", 0, "cut large pictures into squares of so many pixels; 0: not")
    batch = number("batch_size", 0, "pictures of one shape at a time; 0: chosen by the device")
    dtype = flags.DEFINE_enum("dtype", "auto", ["auto", "float32", "bfloat16"], "computes in")
    colormap = text("colormap", "Spectral_r", "a name of matplotlib's")
    grey = yes("grayscale", False, "grey instead of colours, near is white")
    invert = yes("invert", False, "near is dark (grey, 16 bits) or cold (colours)")
    limits = text("range", None, "of colours: image, shared, or NEAR,FAR; videos: shared")
    scale = real("png_scale", 1000.0, "units of a metric 16-bit PNG in a metre")
    intrinsics = flags.DEFINE_list("intrinsics", None, "fx,fy,cx,cy in pixels, of all pictures")
    fov = real("fov", None, "degrees that the longer side sees, of all pictures")
    edge = real("edge", 0.04, "relative jump of depth where points are left out; 0: none are")
    far = real("far", None, "metres beyond which points are left out")
    relative = yes("relative_cloud", False, "points of a relative model: a shift of 0 is assumed")
    resume = yes("resume", False, "make only what is missing in --out")
    overwrite = yes("overwrite", False, "replace what is in --out")
    smooth = yes("smooth", True, "videos: keep scale and shift from frame to frame")
    max_len = number("max_len", None, "videos: so many frames")
    fps = real("target_fps", None, "videos: so many frames a second")
    max_res = number("max_res", None, "videos: longer side in pixels")
    for flag in (scale, relative, batch, max_len, fps, max_res):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)
    load = weight_flags.define()
    flags.adopt_module_key_flags(weight_flags)  # so that --help shows them

    def run(argv: list[str]) -> None:
        if not argv[1:]:
            raise app.UsageError("name pictures, folders, globs or videos, or - for standard input")
        logging.set_verbosity(logging.WARNING)
        warnings.showwarning = _tell
        try:
            status = _run(argv[1:])
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        sys.exit(status)

    def _run(inputs: list[str]) -> int:
        from depth_anything_jax.api import folders, outputs

        folder = pathlib.Path(out.value).expanduser()
        items = folders.find(inputs, without=folder)
        style = outputs.Style(
            formats=tuple(dict.fromkeys(f.strip() for f in formats.value)),
            colormap="grey" if grey.value else colormap.value,
            invert=invert.value,
            range=_range(limits.value),
            png_scale=scale.value,
            intrinsics=_numbers("--intrinsics", intrinsics.value, 4),
            fov=fov.value,
            edge=edge.value,
            far=far.value,
            relative_cloud=relative.value,
        )
        options = Options(
            input_size=size.value, buckets=buckets.value, tile=tile.value, smooth=smooth.value,
            max_len=max_len.value, target_fps=fps.value, max_res=max_res.value,
        )  # fmt: skip
        return _main(
            items, folder, style, options,
            checkpoint=checkpoint.value, dtype=dtype.value, batch_size=batch.value,
            resume=resume.value, overwrite=overwrite.value, load=load(),
        )  # fmt: skip

    app.run(run)


def _main(
    items: list[Any],
    out: pathlib.Path,
    style: Any,
    options: Options,
    *,
    checkpoint: str | None,
    dtype: str,
    batch_size: int,
    resume: bool,
    overwrite: bool,
    load: dict[str, Any],
) -> int:
    from depth_anything_jax.api import outputs, shapes
    from depth_anything_jax.api.model import DEFAULT, DepthAnything

    _check_videos(items, style)
    if resume and style.range == "shared" and any(not i.video for i in items):
        raise ValueError(
            "--resume with --range=shared: the pictures that are done had another range; give "
            "--range=NEAR,FAR, as the first run printed it"
        )
    style.check("m")  # what no model could write, before one is loaded
    source = checkpoint or DEFAULT
    # What is there decides before minutes are spent on loading.
    facts = {"checkpoint": source, "dtype": dtype, **load}
    facts |= dataclasses.asdict(options) | dataclasses.asdict(style)
    facts = json.loads(json.dumps(facts))  # tuples are lists
    todo = prepare(out, items, style, facts, resume=resume, overwrite=overwrite)
    if len(todo) < len(items):
        print(f"{len(items) - len(todo)} of {len(items)} are done already")
    if not todo:
        return 0
    model = DepthAnything.from_pretrained(source, dtype=dtype, batch_size=batch_size, **load)
    print(f"{model!r} → {out}", flush=True)
    style.check(model.unit)
    if options.buckets:  # of all pictures, so that a resumed run has the same lengths
        stills = [i.source for i in items if not i.video and i.source != "-"]
        lengths = shapes.lengths(stills, options.input_size, options.buckets)
        options = dataclasses.replace(options, buckets=lengths)
    problems = predict(model, todo, out, style, options)
    done = len(todo) - len({name for name, _ in problems})
    ends = ", ".join(f"*{outputs.PICTURES[f]}" for f in style.formats)
    print(f"{done} of {len(todo)} done: {out}/{ends}")
    if problems:
        print(problems, file=sys.stderr)
    return 1 if problems else 0


def _check_videos(items: Sequence[Any], style: Any) -> None:
    from depth_anything_jax.api import outputs

    lost = [f for f in style.formats if f in outputs.PICTURES and f not in outputs.VIDEOS]
    first = next((i.source for i in items if i.video), None)
    if first is None or not lost:
        return
    kept = ", ".join(outputs.VIDEOS)
    if len(lost) == len(style.formats):
        raise ValueError(f"{first}: --format {lost[0]} is for pictures; of videos: {kept}")
    print(f"{first}: of videos only {kept} are written, not {', '.join(lost)}")


def _range(text: str | None) -> Any:
    """image, shared, or two numbers; None: of pictures each its own, of videos shared."""
    if text is None or text in ("image", "shared"):
        return text
    return _numbers("--range", text.split(","), 2)


def _numbers(flag: str, values: list[str] | None, count: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        found = tuple(float(v) for v in values)
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"{flag}={','.join(values)}: {count} numbers with commas are needed")
    return found


def _tell(message: Any, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
