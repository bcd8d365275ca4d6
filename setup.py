"""The package and what it needs. Ranges only: constraints.txt pins the versions tested."""

import pathlib
import re

from setuptools import find_packages, setup

# Configs lie at the top of the repository, where people look for them, and travel in the wheel as
# depth_anything_jax/_configs, where depth_anything_jax.configs finds them after `pip install`.
CONFIGS_PACKAGE = "depth_anything_jax._configs"

CORE = [
    "absl-py>=2.1",
    "array-record>=0.8.3",  # reads gs://
    "etils[epath]>=1.9",
    "flatbuffers>=24.3",  # jax.export writes programs with it, and does not bring it
    "flax>=0.12",
    "grain>=0.2.15",
    "huggingface-hub>=0.30",
    "jax>=0.10",  # first with ResizeMethod.CUBIC_PYTORCH
    "jaxtyping>=0.3",
    "matplotlib>=3.9",
    "ml-dtypes>=0.5",
    "ml-collections>=1.0",
    "numpy>=2.0",
    "opencv-python-headless>=4.10",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.40",
    "pillow>=10.4",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
]
# Brings no TensorFlow, but pyarrow: together a sixth of the space of an installation.
TRAIN = ["tensorflow-datasets>=4.9.8"]

HERE = pathlib.Path(__file__).parent
VERSION_FILE = (HERE / "depth_anything_jax" / "utils" / "version.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', VERSION_FILE, re.MULTILINE)

setup(
    name="depth_anything_jax",
    version=VERSION[1],
    description="Depth Anything in JAX and Flax, trained end to end",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["depth_anything_jax", "depth_anything_jax.*"]),
        CONFIGS_PACKAGE,
    ],
    package_dir={CONFIGS_PACKAGE: "configs"},
    package_data={"depth_anything_jax": ["assets/*", "py.typed"]},
    entry_points={"console_scripts": ["depth-anything = depth_anything_jax.predict:main"]},
    install_requires=CORE,
    extras_require={
        # data sets of packed records (tfds:…), which pictures and folders do without
        "train": TRAIN,
        # where people train, so with TRAIN; gs:// is where TPUs keep their files
        "tpu": ["jax[tpu]>=0.10", "gcsfs>=2024.6", *TRAIN],
        "cuda": ["jax[cuda12]>=0.10", *TRAIN],
        # reads .pth and .bin (safetensors need no torch); segmentation models for sky masks
        "torch": ["torch>=2.6", "transformers>=4.50"],
        # tools/export_onnx.py; torch and transformers as it is tested, their exporter moves fast
        "onnx": [
            "onnx>=1.20",
            "onnxruntime>=1.24",
            "onnxscript>=0.6",
            "torch>=2.9",
            "transformers>=5.0",
        ],
        # tools/prepare_data.py --runner; Beam holds NumPy and others back, so it has no pin here
        "beam": ["apache-beam>=2.70", *TRAIN],
        "openvino": ["openvino>=2025.2"],  # --runtime=openvino: faster on CPUs
        # HDF5 and MATLAB files of evaluation sets (Hypersim, NYUv2, SUN RGB-D), predictions in EXR
        "eval": ["h5py>=3.11", "openexr>=3.3", "scipy>=1.14"],
        # corruptions of images in evaluate --corrupt; the last release under MIT
        "corrupt": ["albumentations>=2.0.8"],
        # files of training sets: HDF5, LMDB, EXR, BDD100K's videos
        "sets": ["av>=15.0", "h5py>=3.11", "lmdb>=1.6", "openexr>=3.3"],
        "exr": ["openexr>=3.3"],  # depth maps in EXR
        "heic": ["pillow-heif>=1.0"],  # pictures of phones
        "video": ["av>=15.0"],  # brings FFmpeg with it
        # the page; Gradio before 6.16 has known holes. Videos and phones' pictures come there too
        "app": ["av>=15.0", "gradio>=6.16", "pillow-heif>=1.0", "starlette>=1.0"],
        "test": [
            *TRAIN,
            "albumentations>=2.0.8",
            "av>=15.0",
            "beartype>=0.20",
            "gradio>=6.16",
            "h5py>=3.11",
            "hypothesis>=6.100",
            "lmdb>=1.6",
            "mypy>=1.15",
            "openexr>=3.3",
            "openvino>=2025.2",
            "pillow-heif>=1.0",
            "playwright>=1.50",  # drives a Chromium that is there already; it brings none
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "scipy>=1.14",
            "setuptools>=77",  # a test builds the wheel
            "starlette>=1.0",
            "transformers>=4.50",
        ],
        # `make site`
        "docs": [
            "latex2mathml>=3.78",
            "mkdocs>=1.6",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=1.0",
        ],
        "wandb": ["wandb>=0.19"],  # config.log.wandb
        "notebook": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
