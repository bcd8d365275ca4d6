"""Predicts depth of images, folders and videos, and writes it to files.

    python -m depth_anything_jax.predict photo.jpg holiday/ 'shots/*.png' clip.mp4 --out depth
    depth-anything photo.heic --out depth --format npy,side-by-side
    depth-anything room.jpg --out depth --format ply --checkpoint \\
        depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf
    cat photo.jpg | depth-anything - --out depth
    depth-anything clip.mp4 --out depth --max-res 720 --target-fps 10

--checkpoint is a hub id, a file, a folder or a training run; the default is V2-Small from the
Hugging Face Hub. Names below --out follow the inputs: holiday/a.jpg gives holiday/a.depth.png,
a.color.png (--format). docs/use.md describes the files.

Relative models predict inverse depth up to scale and shift: near is white. Metric models predict
metres, which are never stretched. Inputs that cannot be read are listed at the end, the others are
processed, and the exit code is then 1.
"""

import dataclasses
import io
import json
import pathlib
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any


def main() -> None:
    """The command line; see the module's docstring and --helpshort."""
    from absl import flags, logging

    from depth_anything_jax.checkpoints import weight_flags
    from depth_anything_jax.utils import command_line

    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    yes = flags.DEFINE_boolean
    out = text("out", None, "folder for the results", required=True)
    checkpoint = text("checkpoint", None, "hub id, file, folder or run; else V2-Small of the hub")
    formats = flags.DEFINE_list(
        "format",
        ["png16", "color"],
        "png16, npy, npz, pfm, exr, color, side-by-side, ply, glb; several with commas",
    )
    size = number("size", None, "shorter side of the network's input, pixels; else the model's own")
    buckets = number("buckets", 0, "lengths that the longer side may have; 0: exact shapes")
    tile = number("tile", 0, "cut large pictures into squares of this side in pixels; 0: off")
    at_a_time = number("batch_size", 0, "pictures of one shape per batch; 0: by the device")
    dtype = flags.DEFINE_enum("dtype", "auto", ["auto", "float32", "bfloat16"], "compute dtype")
    runtime = flags.DEFINE_enum(
        "runtime", "jax", ["jax", "openvino"], "openvino: faster on CPUs, extra [openvino]"
    )
    int8 = yes("int8", False, "kernels in 8 bits: a quarter of the memory")
    colormap = text("colormap", "Spectral_r", "name of a matplotlib colour map")
    grey = yes("grayscale", False, "grey instead of colours, near is white")
    invert = yes("invert", False, "near is dark (grey, 16 bits) or cold (colours)")
    limits = text("range", None, "of colours: image, shared, or NEAR,FAR; videos: shared")
    scale = real("png_scale", None, "units a metre of metric 16 bits; else 1000, 256, 100 or 10")
    intrinsics = flags.DEFINE_list("intrinsics", None, "fx,fy,cx,cy in pixels, of all pictures")
    fov = real("fov", None, "field of view of the longer side in degrees, of all pictures")
    edge = real("edge", 0.04, "relative jump of depth where points are left out; 0: none are")
    far = real("far", None, "metres beyond which points are left out; else near the model's end")
    relative = yes("relative_cloud", False, "points of a relative model: a shift of 0 is assumed")
    resume = yes("resume", False, "make only the files that are missing in --out")
    overwrite = yes("overwrite", False, "replace existing files in --out")
    smooth = yes("smooth", True, "videos: keep scale and shift from frame to frame")
    flags.DEFINE_alias("-smooth", "smooth")  # --no-smooth, as the other names have dashes
    max_len = number("max_len", None, "videos: maximum number of frames")
    fps = real("target_fps", None, "videos: maximum number of frames per second")
    max_res = number("max_res", None, "videos: maximum of the longer side in pixels")
    for flag in (scale, relative, at_a_time, max_len, fps, max_res):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)
    load, of_weights = weight_flags.define()

    def run(argv: list[str]) -> None:
        if not argv[1:]:
            sys.exit("name pictures, folders, globs or videos, or - for standard input")
        logging.set_verbosity(logging.WARNING)
        warnings.showwarning = _tell
        for stream in (sys.stdout, sys.stderr):  # file names that the terminal cannot show
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes incomplete files
        try:
            status = _run(argv[1:])
        except KeyboardInterrupt:
            print("\nstopped; --resume makes the missing files", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            sys.exit(command_line.told(error))
        sys.exit(status)

    def _run(inputs: list[str]) -> int:
        from depth_anything_jax.cli import batch, outputs
        from depth_anything_jax.cli.inputs import find
        from depth_anything_jax.utils.paths import is_remote

        if is_remote(out.value):
            raise ValueError(
                f"--out={out.value}: give a local or mounted folder, and copy it afterwards"
            )
        folder = pathlib.Path(out.value).expanduser()
        items = find(inputs, without=folder, tell=print)
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
        options = batch.Options(
            input_size=size.value, buckets=buckets.value, tile=tile.value, smooth=smooth.value,
            max_len=max_len.value, target_fps=fps.value, max_res=max_res.value,
        )  # fmt: skip
        return _main(
            items, folder, style, options,
            checkpoint=checkpoint.value, dtype=dtype.value, runtime=runtime.value, int8=int8.value,
            batch_size=at_a_time.value,
            resume=resume.value, overwrite=overwrite.value, load=load(),
        )  # fmt: skip

    groups = {
        "Output": [out, formats, resume, overwrite, scale],
        "Model": [checkpoint, dtype, runtime, int8, *of_weights],
        "Network's input": [size, buckets, tile, at_a_time],
        "Colours": [colormap, grey, invert, limits],
        "Points": [intrinsics, fov, edge, far, relative],
        "Videos": [smooth, max_len, fps, max_res],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups, needs=[out], positional=True)


def _main(
    items: list[Any],
    out: pathlib.Path,
    style: Any,
    options: Any,
    *,
    checkpoint: str | None,
    dtype: str,
    runtime: str,
    int8: bool,
    batch_size: int,
    resume: bool,
    overwrite: bool,
    load: dict[str, Any],
) -> int:
    from depth_anything_jax.cli import batch, outputs
    from depth_anything_jax.cli import resume as resuming
    from depth_anything_jax.cli.inputs import STDIN
    from depth_anything_jax.inference import input_sizes, openvino_runtime
    from depth_anything_jax.inference.model import DEFAULT, DepthAnything
    from depth_anything_jax.parallel import compile_times
    from depth_anything_jax.utils.sixteen_bits import SCALES

    openvino_runtime.check(runtime, dtype)
    _check_videos(items, style)
    if resume and style.range == "shared" and any(not i.video for i in items):
        raise ValueError(
            "--resume with --range=shared: the finished pictures had another range; give "
            "--range=NEAR,FAR, as printed by the first run"
        )
    style.check("m")  # before loading a model: styles that no model can write
    source = checkpoint or DEFAULT
    # Existing files are checked before the model is loaded, which may take minutes.
    facts = {"checkpoint": source, "dtype": dtype, **load}
    if runtime != "jax":  # older folders do not record it
        facts["runtime"] = runtime
    if int8:
        facts["int8"] = int8
    facts |= dataclasses.asdict(options) | dataclasses.asdict(style)
    facts["png_scale"] = style.png_scale or SCALES[0]  # as older folders record it
    facts = json.loads(json.dumps(facts))  # tuples are lists
    todo = resuming.missing(out, items, style, facts, resume=resume, overwrite=overwrite)
    if len(todo) < len(items):
        print(f"{len(items) - len(todo)} of {len(items)} are already done")
    if not todo:
        return 0
    resuming.make_folder(out)
    model = DepthAnything.from_pretrained(
        source, dtype=dtype, batch_size=batch_size, runtime=runtime, int8=int8, **load
    )
    print(f"{model!r} → {out}", flush=True)
    style.check(model.unit)
    soon = compile_times.line("predict") if runtime == "jax" else ""
    if soon:
        print(soon, flush=True)
    resuming.begin(out, todo, style, facts)
    if options.buckets:  # chosen from all images, so that a resumed run has the same lengths
        stills = [i.source for i in items if not i.video and i.source != STDIN]
        model.recipe.check_size(options.input_size, options.buckets)
        short = options.input_size or model.recipe.input.short_side
        patch_size = model.recipe.input.encoder.patch_size
        lengths = input_sizes.lengths(stills, short, options.buckets, patch_size=patch_size)
        options = dataclasses.replace(options, buckets=lengths)
    problems = batch.run(model, todo, out, style, options)
    done = len(todo) - len({name for name, _ in problems})
    kinds = [ends for ends, video in ((outputs.PICTURES, False), (outputs.VIDEOS, True))
             if any(i.video == video for i in todo)]  # fmt: skip
    ends = ", ".join(f"*{ends[f]}" for ends in kinds for f in style.formats if f in ends)
    print(f"{done} of {len(todo)} done: {out}/{ends}")
    if problems:
        print(problems, file=sys.stderr)
    return 1 if problems else 0


def _check_videos(items: Sequence[Any], style: Any) -> None:
    from depth_anything_jax.cli import outputs

    lost = [f for f in style.formats if f in outputs.PICTURES and f not in outputs.VIDEOS]
    first = next((i.source for i in items if i.video), None)
    if first is None or not lost:
        return
    kept = ", ".join(outputs.VIDEOS)
    if len(lost) == len(style.formats):
        raise ValueError(f"{first}: --format {lost[0]} is for pictures; of videos: {kept}")
    print(f"{first}: of videos only {kept} are written, not {', '.join(lost)}")


def _range(text: str | None) -> Any:
    """Parses --range: image, shared, or two numbers; None: images have their own, videos share."""
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
        raise ValueError(f"{flag}={','.join(values)}: must be {count} numbers with commas")
    return found


def _tell(message: Any, *rest: Any, **more: Any) -> None:
    from tqdm import tqdm

    tqdm.write(f"warning: {message}", file=sys.stderr)  # above a progress bar


if __name__ == "__main__":
    main()
