"""Croissant: the corpus described for programs, as JSON-LD that `mlcroissant` validates."""

import json
from typing import Any, Final

from transforms.findings import Manifest

FILES_LISTED: Final = 2_000  # of each arm with their checksums; more would be larger than the manifest they repeat

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(manifest: Manifest) -> str:
    """croissant.json of a corpus: every arm's files with their checksums, and the fields of its records."""
    arms = manifest["arms"]
    value = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest["name"],
        "description": f"Matched pretraining corpora, rebalanced by Counterpoise {manifest['counterpoise']} in how "
        f"they portray AI. Arms: {', '.join(arms)}. Configuration {manifest['config_sha256']}.",
        "version": "1.0.0",
        "distribution": [node for name in arms for node in _files(manifest, name)],
        "recordSet": [_records(manifest, name) for name in arms],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _encoding(manifest: Manifest) -> str:
    parquet = manifest["config"]["output"]["format"] == "parquet"
    return "application/x-parquet" if parquet else "application/jsonlines"


def _files(manifest: Manifest, arm: str) -> list[dict[str, Any]]:
    """An arm's files, and the set of them."""
    encoding, files = _encoding(manifest), manifest["arms"][arm]["files"]
    listed = files if len(files) <= FILES_LISTED else []
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": file["path"],
            "name": file["path"].rpartition("/")[2],
            "contentUrl": file["path"],
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": encoding,
            "sha256": file["sha256"],
        }
        for file in listed
    ]
    whole = {
        "@type": "cr:FileSet",
        "@id": f"{arm}-files",
        "name": f"{arm}-files",
        "description": f"The parts of arm {arm}, in order.",
        "encodingFormat": encoding,
        "includes": f"{arm}/part-*.{manifest['config']['output']['format']}",
    }
    return [*objects, whole]


def _records(manifest: Manifest, arm: str) -> dict[str, Any]:
    """The two fields that every record has."""
    main = manifest["config"]["sources"][0]
    parquet = manifest["config"]["output"]["format"] == "parquet"

    def field(name: str, description: str) -> dict[str, Any]:
        extract = {"column": name} if parquet or "." not in name else {"jsonPath": f"$.{name}"}
        return {
            "@type": "cr:Field",
            "@id": f"{arm}/{name}",
            "name": name,
            "description": description,
            "dataType": "sc:Text",
            "source": {"fileSet": {"@id": f"{arm}-files"}, "extract": extract},
        }

    return {
        "@type": "cr:RecordSet",
        "@id": arm,
        "name": arm,
        "description": f"The records of arm {arm}; row i of a part's provenance describes record i of the part.",
        "field": [
            field(main["id"] or "id", "The document's own id, as its source has it."),
            field(main["text"], "The document."),
        ],
    }
