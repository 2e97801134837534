"""What can be checked of a Dataflow job before it costs anything: options, places, machine, image, regions.

Every check returns its problems, one line each, so that all of them can be shown at once. The network is used for one
thing only, the location of buckets, and where that may not be read the check is left to the service.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import apache_beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, SetupOptions, WorkerOptions

from beam_pipeline.config import Config
from classifiers.model import LANGUAGE_MODEL

IMAGE_FOLDER: Final = "/opt/counterpoise/"
"""Model files that were built into the worker's image lie below it, and only those may be named by a local path."""

LEAST_GB_PER_CORE: Final = 3.0  # Beam 0.2, models and kernels 0.4, a slice's columns up to 1, the system's share 1

_GB_PER_CORE: Final[Mapping[str, float]] = {
    **{f"{family}-standard": 4 for family in ("e2", "n2", "n2d", "n4", "c2", "c2d", "c3", "c3d", "t2d")},
    **{f"{family}-highmem": 8 for family in ("e2", "n2", "n2d", "n4", "c2d", "c3", "c3d")},
    **{f"{family}-highcpu": 2 for family in ("c2d", "c3", "n4", "c4", "c3d")},
    **{f"{family}-highcpu": 1 for family in ("e2", "n2", "n2d")},
    "n1-standard": 3.75, "n1-highmem": 6.5, "n1-highcpu": 0.9, "c4-standard": 3.75, "c4-highmem": 7.75,
    "e2-micro": 0.5, "e2-small": 1, "e2-medium": 2, "f1-micro": 0.6, "g1-small": 1.7,
}  # fmt: skip
"""Memory of Google's machine families by virtual core; a family that is not here is accepted."""

_MULTI_REGIONS: Final = {
    "US": ("us-", "northamerica-"),
    "EU": ("europe-",),
    "ASIA": ("asia-",),
    "NAM4": ("us-central1", "us-east1"),
    "EUR4": ("europe-north1", "europe-west4"),
    "EUR5": ("europe-west1", "europe-west2"),
    "EUR7": ("europe-west2", "europe-west3"),
    "EUR8": ("europe-west3", "europe-west6"),
    "ASIA1": ("asia-northeast1", "asia-northeast2"),
}


class Findings(NamedTuple):
    """Problems forbid the job; warnings are printed and the job goes on."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def examine(config: Config, options: PipelineOptions) -> Findings:
    """Every check of this file, in the order in which a person would mend things."""
    values = options.get_all_options()
    problems = [
        *option_problems(values),
        *place_problems(config),
        *model_problems(config, has_image=bool(values["sdk_container_image"])),
        *machine_problems(options.view_as(WorkerOptions).machine_type or ""),
        *image_problems(values["sdk_container_image"] or "", apache_beam.__version__),
    ]
    own, foreign = buckets_of(config, options)
    region = options.view_as(GoogleCloudOptions).region or ""
    places: dict[str, str] = {}
    if not problems:  # else nothing would be learnt but that other things are wrong as well
        for bucket in sorted(own | foreign):
            places[bucket], complaint = location_of(bucket)
            problems += [complaint] if complaint else []
    problems += [p for b in sorted(own) if (p := region_problem(b, places.get(b, ""), region))]
    warnings = [p for b in sorted(foreign - own) if (p := region_problem(b, places.get(b, ""), region))]
    return Findings(tuple(problems), tuple(f"{w} (input: every byte read is paid for as traffic)" for w in warnings))


def option_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What Dataflow needs, what Beam would otherwise make up by itself, and what must not be."""
    yield from _where_problems(values["project"] or "", values["region"] or "")
    if not values["temp_location"]:
        yield "--temp_location: missing; Beam would create a bucket by itself; for example gs://my-bucket/temp"
    for name in ("temp_location", "staging_location"):
        place = values[name] or ""
        if place and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+/\S+", place):
            yield f"--{name}: {place} is no gs://BUCKET/FOLDER; the service stages the job there"
    if values["save_main_session"]:
        yield "--save_main_session: leave it away; nothing here lives in the main module, and it would pickle one"
    if values["setup_file"] and values["sdk_container_image"]:
        yield "--setup_file, --sdk_container_image: give one of them; the image has the program already"


def _where_problems(project: str, region: str) -> Iterator[str]:
    if not project:
        yield "--project: missing; the cloud project that pays, for example --project my-project-123"
    elif not re.fullmatch(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", project):
        yield f"--project: {project!r} is no project id (6 to 30 lower-case letters, digits, dashes; not its name)"
    if not region:
        yield "--region: missing; where the data lies, for example --region us-central1"
    elif re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", region):
        yield f"--region: {region} is a zone; its region is {region[:-2]}"
    elif not re.fullmatch(r"[a-z]+-[a-z]+\d+", region):
        yield f"--region: {region!r} is no region such as us-central1 or europe-west4"


def place_problems(config: Config) -> Iterator[str]:
    """Places that only this machine can reach."""
    places = {"output.path": config.output.path, "work": config.work_path, "tokenizer": config.tokenizer or ""}
    for kind, specs in (("sources", config.sources), ("pool", config.pool)):
        for spec in specs:
            places |= {f"{kind}.{spec.name}.paths": pattern for pattern in spec.patterns if _is_local(pattern)}
            places |= {f"{kind}.{spec.name}.checksums": spec.checksums or ""}
    for key, place in places.items():
        if _is_local(place):
            yield f"{key}: {place} lies on this machine, where no worker can reach it; copy it to gs://"
    for key in ("output.path", "work"):
        if not _is_local(places[key]) and not places[key].startswith("gs://"):
            yield f"{key}: {places[key]} is not gs://; Dataflow's workers commit there with their service account"


def _is_local(place: str) -> bool:
    return bool(place) and ("://" not in place or place.startswith("file://"))


def model_problems(config: Config, *, has_image: bool) -> Iterator[str]:
    """Models that are files of this machine."""
    standard = {"language.model": LANGUAGE_MODEL, "stance.model": "default"}
    for key, model in (("language.model", config.language.model), ("stance.model", config.stance.model)):
        if model == standard[key] or (has_image and model.startswith(IMAGE_FOLDER)):
            continue
        yield (f"{key}: {model} is a file of this machine, where no worker can reach it; build it into the image below "
               f"{IMAGE_FOLDER} (deploy/README.md), name it by that path and give --sdk_container_image")  # fmt: skip


def machine_problems(machine: str) -> Iterator[str]:
    """Machines without memory for one process a core; a type that is not known is let through."""
    custom = re.fullmatch(r"(?:[a-z0-9]+-)?custom-(\d+)-(\d+)(?:-ext)?", machine)
    family = re.sub(r"-\d+$", "", machine)
    per_core = int(custom[2]) / 1024 / int(custom[1]) if custom else _GB_PER_CORE.get(family)
    if per_core is not None and per_core < LEAST_GB_PER_CORE:
        yield (f"--machine_type: {machine} has {per_core:.2g} GB a core, and every core runs a process that needs "
               f"{LEAST_GB_PER_CORE:g}; take n2-standard or e2-standard (4 GB), or a highmem type")  # fmt: skip


def image_problems(image: str, beam: str) -> Iterator[str]:
    """An image whose tag names another Beam than the one that submits."""
    tag = image.rpartition("/")[2].partition(":")[2]
    named = re.search(r"(?<![\d.])(2\.\d+\.\d+)(?![\d.]*\d)", tag)
    if named and named[1] != beam:
        yield (f"--sdk_container_image: {image} has Beam {named[1]}, this program has {beam}; the job would be refused "
               "by its own workers: build the image again from this release (deploy/cloudbuild.yaml)")  # fmt: skip


def buckets_of(config: Config, options: PipelineOptions) -> tuple[set[str], set[str]]:
    """Buckets that the job writes to, and those that it reads."""
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    own = [cloud.temp_location, cloud.staging_location, config.output.path, config.work_path, setup.setup_file]
    read = [p for spec in (*config.sources, *config.pool) for p in (*spec.patterns, spec.checksums)]
    return (
        {place.split("/")[2] for place in own if place and place.startswith("gs://")},
        {place.split("/")[2] for place in (*read, config.tokenizer) if place and place.startswith("gs://")},
    )


def location_of(bucket: str) -> tuple[str, str]:
    """A bucket's location ("" where it may not be read), and a problem ("" for none)."""
    from google.api_core.exceptions import GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    try:
        found = storage.Client(project=None).get_bucket(bucket, timeout=20, retry=None)
    except NotFound:
        return "", f"gs://{bucket} does not exist; create it, or mend the name"
    except (GoogleAPICallError, GoogleAuthError, OSError):  # no permission to see it is no reason not to use it
        return "", ""
    return str(found.location or ""), ""


def region_problem(bucket: str, location: str, region: str) -> str:
    """What is wrong with a bucket's place for a job in a region, or ""."""
    if not location or not region or location.lower() == region:
        return ""
    if region.startswith(_MULTI_REGIONS.get(location.upper(), ("\0",))):
        return ""
    return f"gs://{bucket} lies in {location}, the job would run in {region}: traffic between them is slow and paid for"
