"""The steps of a build, in the order in which data meets them.

A file knows the files above it and none below. Pure functions hold the logic; where there is a step, one PTransform
at the end of the file wires it.

    errors          every way in which a build stops, and its exit code
    schema          the values that travel, and the columns of what is written
    counters        names of the Beam counters
    heartbeat       signs of life of a local build's workers
    storage         one protocol over local disks, Google Cloud Storage, S3 and fsspec
    storage_local   files of this machine
    storage_gcs     gs://
    storage_fsspec  s3:// and whatever else fsspec opens
    spool           scratch folders on this machine's disk
    decode          bytes → decompressed blocks, with proof of completeness
    lines           blocks → lines, and those of one byte range
    warc            blocks → WARC records
    extract         a crawled page → its text
    record          what the readers of every format share: fields, columns, metadata
    read_jsonl      JSON lines → texts, or the records chosen from them
    read_parquet    Parquet → the same
    read_archive    WET and WARC → the same
    read            a slice of a shard → Arrow batches of texts, or of records, whatever the format
    find            FindShards: list, pin versions, slice
    select          exact selection by amount, without sorting the world
    measure         how much text there is, in every unit
    annotation      the annotation object: its name, its columns, its footer
    quarantine      a line of the quarantine
    annotate        AnnotateSlices: language, stance and amounts of every document, kept as Parquet
    census          TakeCensus: every number the plan is made from
    arms            what each arm does with a document
    layout          which slices make up each output file
    dose            which synthetic documents, how often, and where on the line
    plan            MakePlan: cuts, layout, doses and schedules
    sequence        the order of the records in one output file
    write           output files: summed while written, committed once
    provenance      who is who in an output file
    compose         base records, held copies and synthetic records → one output file
    mix             MixSlices: every slice read once more, all arms written from that reading
    findings        what a report says, as numbers
    figures         its charts, as Plotly specifications
    card            README.md of a corpus
    croissant       the corpus described for programs
    report          dataset card and report, from the manifest
    commit          CommitCorpus: the equation, quarantine, manifest, `_SUCCESS`
"""
