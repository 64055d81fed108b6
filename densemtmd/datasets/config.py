"""A dataset is one plain YAML file: :class:`DatasetConfig` is what it may say, :func:`load_dataset_config` reads it.

A dataset may be *derived* from another: the same pictures, or a share of them, seen through another labelset. Its YAML
says so with ``derive``, and takes all else from its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from densemtmd.datasets.names import composed
from densemtmd.datasets.splits import SPLITS, Folds, Fractions, Lists, Patterns, SplitRule, Take
from densemtmd.errors import UserError
from densemtmd.files import conf_folder, form_of, read_yaml
from densemtmd.kind import kind_of_encoding
from densemtmd.tasks import VOID, Colour, Labelset, Task, nearest

BUILT_IN = conf_folder() / "dataset"
"""The folder of the datasets that come with the project."""

Code: TypeAlias = int | Colour | str
"""What a file of labels says of a pixel: a number, where labels are colours an (R, G, B), of an object the name of its label."""

NAMED = ("coco", "labelme", "label_studio")
"""Encodings of objects whose labels have names."""

OBJECTS = (*NAMED, "yolo")
"""Encodings of objects, which leave pixels without any."""

LISTING = ("coco", "label_studio")
"""Encodings of which one file speaks of many pictures."""

ENCODINGS = ("index", "colour", "mat", "text", *OBJECTS)
ONE_SEQUENCE = "one"
REST = "rest"
NEGATIVE = "negative"
QUOTES = "; put quotes around one that YAML takes for something else"
FINDINGS = (
    "without-labels", "without-picture", "unreadable", "size", "turned", "lossy", "code", "unused", "untrained", "void", "empty",
    "sequence", "leak", "duplicate",
)  # fmt: skip
"""What a check of the data may find, each described in :mod:`densemtmd.datasets.checks`."""

FATAL = ("unreadable", "size", "code")
"""Findings that no YAML can acknowledge: with such a file nothing can be trained."""

DEFAULT_SPLIT = Fractions(train=0.6, val=0.1, test=0.3)  # section 4.2: about 70 % to train and validate, 30 % to test


@dataclass(frozen=True)
class Codes:
    """What the codes in files of labels mean."""

    labels: tuple[tuple[Code, ...], ...]  # of each label
    void: tuple[Code, ...]
    negative: bool                        # every code below 0 is void
    rest: int | None                      # the class id of every other code (255: void); None: other codes are errors


@dataclass(frozen=True)
class Exclusion:
    """A file that lists pictures to leave out."""

    file: str
    beside: Path            # the folder of the YAML that names it
    names: tuple[str, ...]  # of the datasets whose section of the file counts


@dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it lies, its format, its labelset, its domain, its split. The keys of the YAML, in turn:

    ``name``
        What people call the dataset and its labelset.
    ``domain``
        What the domain discriminator tells apart; by default the name. Datasets of one camera and one place share a
        domain (the seven KITTI labelsets: ``kitti``).
    ``folder``
        Where it lies beneath the data root; by default the name. An absolute path is taken as it is.
    ``images``, ``labels``
        Where the files lie beneath the folder: one glob or a list of globs, ``images/*.jpg``, ``**/*_labels.png``.
        Pictures are read as people see them, turned as their EXIF says; labels as their file has them.
    ``key``
        How a picture finds its labels. By default two files belong together where the wildcards of their globs stand
        for the same text: ``images/*.jpg`` and ``labels/*.regions.txt`` pair ``images/7.jpg`` with
        ``labels/7.regions.txt``, ``*/rgb/*.png`` and ``*/gt/*.png`` pair within each folder. A glob that ends in
        ``*`` leaves the suffix out. Where names differ more, give a regular expression, searched in the path below
        the folder: its groups, joined by ``/``, are the key. The lists of a split, ``sequence`` and ``together``
        speak of these keys.
    ``encoding``
        ``index``: pictures whose values are codes (8 or 16 bits of grey, or the indices of a palette); ``colour``:
        pictures whose colours are codes; ``mat``: a MATLAB file with a matrix of codes; ``text``: a matrix of codes as
        text, a line per row. Or objects, as the tools write them that people label with, whose pixels are drawn and of which
        the pixels of none are the ``rest``: ``coco`` and ``label_studio``: their JSON, of all pictures together; ``labelme`` and
        ``yolo``: labelme's JSON and YOLO's texts, of each picture its own. Or ``nyu`` and ``icvl``: hands in depth
        pictures, with the files, the keypoints and the split of these datasets; of the other keys only ``name``, ``domain``, ``folder``,
        ``centres`` and ``where`` are then said.
    ``centres``
        Of hands: files of their centres in the folder, ``{test: centres.txt}``, a line per frame (x, y upwards, z in mm). Without one
        a hand is looked for as the nearest blob.
    ``mat_key``
        What the matrix of a MATLAB file is called.
    ``labelset``
        The labels in the order of their class ids. In full ``{label: car, colour: [64, 0, 128], codes: [7, 8]}``: ``colour`` is how the
        label is drawn (where not given, as the same name is in another labelset, or chosen to be apart from the others), ``codes`` is what
        the files say of its pixels (by default the position in this list; with ``encoding: colour`` the colour; where objects have names,
        as in all formats but YOLO's, the label itself). In short ``car``. One label may have ``codes: rest``: every code that nothing else
        has. Instead of a list, the name of another dataset, or the path of its YAML: its labels, with their codes and void, which then
        share the outputs of the network.
    ``void``
        The codes of unlabelled pixels, which teach nothing and are not scored: a list; ``negative``, for every code
        below 0; or ``rest``, for every code that no label has. Without ``rest``, a code that nothing has is an error. Of objects,
        either a label or void has the ``rest``.
    ``sequence``
        Which pictures are frames of one video sequence: they share a split (section 4.2). A regular expression,
        searched in the key: its groups, joined by ``/``, name the sequence, and the keys in which it finds nothing
        are one sequence together. ``one``: all are one sequence. Not given: every picture stands alone. Fewer
        sequences than splits are cut into blocks in the order of the keys.
    ``together``
        Lists of keys that must share a split, such as two scans of one photo.
    ``split``
        One of :class:`~densemtmd.datasets.splits.Fractions`, ``Patterns``, ``Lists`` and ``Folds``, as written there,
        or the name of one of ``splits``. By default fractions of 0.6, 0.1 and 0.3.
    ``splits``
        Named splits to choose from.
    ``exclude``
        A text file of keys that are left out of whichever split they are in, one per line; what follows a ``#`` is a
        comment. After a line ``[name]`` come the keys of the dataset of that name alone. It lies beside the YAML or in
        the dataset's folder. ``tools/check_data.py --exclude-duplicates`` writes such a file.
    ``known``
        What ``tools/check_data.py`` found and is right so, as it prints it between brackets: ``[unused:cow]``, or
        ``[unused]`` for all of the kind. It is then shown as known, and stops nothing.
    ``where``
        Where to get the dataset, for the message that it is missing.
    ``truth``
        ``{with: other.yaml}``: the pictures of this dataset that another one labels too, in a labelset of its own, are truth for
        ``correlate``, ``evaluate --cross`` and ``--labelset``, as if both had been named in ``--data``: what a pixel is, is what the two
        say of it. The name of a built-in dataset or the path of a YAML. Pictures are found whatever their names and sizes; the other's are
        in the split that they are in here, and those that are not here are left out. Nothing is trained on them.
    ``derive``
        ``{from: camvid, map: {person: [pedestrian, bicyclist], other: rest}, void: fence, take: {part: 2, of: 7}}``
        makes the dataset out of another, the name of a built-in one or the path of a YAML. ``map`` makes its labels,
        in the order of their class ids, of those of the source: of one, of several, or of the ``rest``; in full
        ``other: {labels: rest, colour: [70, 70, 70]}``. ``void`` names those that become void, or ``rest``. Each label
        of the source is named once. Without ``map`` the labels are the source's, and share its outputs. ``take`` is
        the share of the pictures, see :class:`~densemtmd.datasets.splits.Take`; by default all. Besides it only
        ``name``, ``domain`` (by default the source's), ``split``, ``exclude``, ``known`` and ``truth`` may be given.
    """

    name: str
    domain: str
    folder: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    key: str | None
    encoding: str
    mat_key: str | None
    task: Task  # its labelset, or keypoints of hands
    codes: Codes
    sequence: str | None
    together: tuple[tuple[str, ...], ...]
    split: SplitRule
    splits: Mapping[str, SplitRule]
    exclude: tuple[Exclusion, ...]
    known: tuple[str, ...]
    where: str | None
    derive: Derivation | None
    path: Path  # the YAML itself
    centres: Mapping[str, str] = field(default_factory=dict)
    truth: DatasetConfig | None = None

    @property
    def labelset(self) -> Labelset:
        """Its labels.

        Raises:
            UserError: it has keypoints of hands.
        """
        if not isinstance(self.task, Labelset):
            raise UserError(f"{self.path} is about keypoints of hands, expected a dataset with labels")
        return self.task

    def choose_split(self, choice: str | Mapping[str, Any] | None) -> SplitRule:
        """The split of a data choice: one of ``splits`` by name, one written out, or the dataset's own for None."""
        return self.split if choice is None else _split(choice, self.splits, self.path)


@dataclass(frozen=True)
class Derivation:
    """What a derived dataset makes of its source."""

    source: DatasetConfig    # never derived itself: of a chain, where it starts
    ids: tuple[int, ...]     # of each class of the source, the class id here; 255: void
    takes: tuple[Take, ...]  # one after the other
    names: tuple[str, ...]   # of all datasets of the chain but the last, nearest first


KEYS = (*(f.name for f in fields(DatasetConfig) if f.name not in ("task", "codes", "path", "centres")), "labelset", "void")
DERIVED_KEYS = ("name", "domain", "derive", "split", "exclude", "known", "truth")


def built_in_datasets() -> tuple[str, ...]:
    """Names of the datasets that come with the project."""
    return tuple(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))


def load_dataset_config(name_or_path: str | Path) -> DatasetConfig:
    """Read and check a dataset's YAML.

    Args:
        name_or_path: a built-in name such as ``"kundu"`` (``conf/dataset/kundu.yaml``), or the path of your own YAML.

    Raises:
        UserError: no such dataset or file, not YAML, or a key that is unknown, missing or wrong.

    >>> load_dataset_config("xu").labelset.labels
    ('sky', 'ground', 'vegetation', 'infrastructure', 'movable')
    """
    path, data = _read(name_or_path)
    return parse_dataset_config(data, path)


def parse_dataset_config(data: Any, path: str | Path) -> DatasetConfig:
    """Check what a dataset's YAML says.

    Args:
        data: its content, as plain dicts, lists and scalars.
        path: where it came from, for messages and for the lists of a split that lie beside it.

    Raises:
        UserError: a key that is unknown, missing or wrong.
    """
    path = Path(path)
    return _parse(data, path, ())


def standalone(name_or_path: str | Path) -> dict[str, Any]:
    """The content of a dataset's YAML, with that of each other YAML in the place where it is named.

    :func:`parse_dataset_config` reads it without those files: it is what a run keeps, to be repeated.

    Raises:
        UserError: a YAML that is missing or is none.

    >>> standalone("camvid_xu")["derive"]["from"]["name"]
    'camvid'
    """
    path, data = _read(name_or_path)
    return _standalone(data, path, ())


def is_standalone(data: Any) -> bool:
    """Whether a dataset's YAML names no other, as :func:`standalone` gives it: a stranger's run should open no file of its choice.

    >>> is_standalone({"labelset": ["a", "b"]}), is_standalone({"labelset": "../private.yaml"})
    (True, False)
    """
    if not isinstance(data, Mapping):
        return not isinstance(data, str)
    derive = data.get("derive")
    truth = data.get("truth")
    named = [data.get("labelset"), *([derive.get("from")] if isinstance(derive, Mapping) else [])]
    named += [truth.get("with")] if isinstance(truth, Mapping) else []
    return all(is_standalone(one) for one in named)


def _without_truth(data: Any) -> Any:
    """A dataset's YAML as others see it that name it: which truth it has is its own affair, and two may be each other's."""
    return {key: value for key, value in data.items() if key != "truth"} if isinstance(data, Mapping) else data


def _standalone(data: Any, path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    data = dict(_mapping(data, None, str(path), whole=True))

    def inlined(named: Any) -> Any:
        if not isinstance(named, str):
            return named
        source, content = _read_named(named, path, (*seen, path))
        return _standalone(_without_truth(content), source, (*seen, path))

    if isinstance(data.get("truth"), Mapping) and isinstance(data["truth"].get("with"), str):
        source, content = _read_named(data["truth"]["with"], path, (path,))
        data["truth"] = data["truth"] | {"with": _standalone(_without_truth(content), source, ())}
    if isinstance(data.get("derive"), Mapping) and "from" in data["derive"]:
        data["derive"] = data["derive"] | {"from": inlined(data["derive"]["from"])}
    if "labelset" in data:
        data["labelset"] = inlined(data["labelset"])
    return data


def _parse(data: Any, path: Path, seen: tuple[Path, ...]) -> DatasetConfig:
    """:func:`parse_dataset_config`; ``seen`` are the YAMLs that derive from this one."""
    if not isinstance(data, Mapping) or data.get("derive") is not None:
        known = _mapping(data, KEYS, str(path), whole=True)
        return _derived({key: value for key, value in known.items() if value is not None}, path, seen)
    return kind_of_encoding(data.get("encoding")).config(dict(data), path)


def parse_labelled(data: Mapping[str, Any], path: Path) -> DatasetConfig:
    """A dataset of pictures whose pixels are labelled, from the content of its YAML; raises as :func:`parse_dataset_config` does."""
    data = {key: value for key, value in _mapping(data, KEYS, str(path), whole=True).items() if value is not None}
    for key in ("name", "images", "labels", "encoding", "labelset"):
        if key not in data:
            raise UserError(f"{path} has no key {key!r}, which every dataset needs")
    name = _text(data["name"], "name", path)
    encoding, mat_key = data["encoding"], data.get("mat_key")
    if encoding not in ENCODINGS:
        raise UserError(f"{path}: unknown encoding {encoding!r}; {nearest(encoding, ENCODINGS)}")
    if (encoding == "mat") != (mat_key is not None):
        raise UserError(f"{path} has encoding {encoding!r} and mat_key {mat_key!r}, expected both 'mat' and its key")
    labelset, codes = _labelset(*_borrowed_labelset(data, path), encoding, path)
    splits = {}
    for split, rule in _mapping(data.get("splits", {}), None, f"{path}: splits").items():
        splits[str(split)] = _split(rule, {}, path)
    return DatasetConfig(
        name=name,
        domain=_text(data.get("domain", name), "domain", path),
        folder=_text(data.get("folder", name), "folder", path),
        images=_globs(data["images"], "images", path),
        labels=_globs(data["labels"], "labels", path),
        key=_expression(data.get("key"), "key", path),
        encoding=encoding,
        mat_key=None if mat_key is None else _text(mat_key, "mat_key", path),
        task=labelset,
        codes=codes,
        sequence=_expression(data.get("sequence"), "sequence", path),
        together=_together(data.get("together", []), path),
        split=_split(data["split"], splits, path) if "split" in data else DEFAULT_SPLIT,
        splits=splits,
        exclude=_exclude(data, name, (), path),
        known=_known(data.get("known"), path),
        where=_text(data["where"], "where", path) if "where" in data else None,
        derive=None,
        path=path,
        truth=_truth_with(data, labelset, path),
    )


def _truth_with(data: Mapping[str, Any], labelset: Labelset, path: Path) -> DatasetConfig | None:
    """The dataset that labels some of this one's pictures too."""
    if data.get("truth") is None:
        return None
    named = _mapping(data["truth"], ("with",), f"{path}: truth").get("with")
    if not isinstance(named, str | Mapping):
        raise UserError(f"{path}: truth is {data['truth']!r}, expected {{with: other.yaml}}, which labels some of its pictures too")
    where, content = _read_named(named, path, (path,)) if isinstance(named, str) else (path, named)
    other = _parse(_without_truth(content), where, ())
    if other.labelset.name == labelset.name:
        raise UserError(f"{path}: truth is with {other.path}, whose labelset is called {other.labelset.name!r} too: give it its own name")
    return other


def _derived(data: dict[str, Any], path: Path, seen: tuple[Path, ...]) -> DatasetConfig:
    """A dataset that is made out of another."""
    for key in data:
        if key not in DERIVED_KEYS:
            raise UserError(f"{path} has 'derive' and {key!r}, expected only {', '.join(DERIVED_KEYS)}: its source says the rest")
    if "name" not in data:
        raise UserError(f"{path} has no key 'name', which every dataset needs")
    name = _text(data["name"], "name", path)
    derive = _mapping(data["derive"], ("from", "map", "void", "take"), f"{path}: derive")
    if "from" not in derive:
        raise UserError(f"{path}: derive has no key 'from', expected the name of a dataset or the path of its YAML")
    if isinstance(derive["from"], str):
        where, content = _read_named(derive["from"], path, (*seen, path))
        source = _parse(_without_truth(content), where, (*seen, path))
    else:
        source = _parse(_without_truth(derive["from"]), path, seen)
    labelset, ids = _seen_as(source.labelset, name, derive, path)
    take = () if derive.get("take") is None else (_take(derive["take"], path),)
    earlier = source.derive or Derivation(source, tuple(range(source.labelset.channels)), (), ())
    names = (source.name, *earlier.names)
    return replace(
        source,
        name=name,
        domain=_text(data.get("domain", source.domain), "domain", path),
        task=labelset,
        codes=_merged(source.codes, ids, labelset.channels),
        split=_split(data["split"], source.splits, path) if "split" in data else source.split,
        exclude=(*source.exclude, *_exclude(data, name, names, path)),
        known=(*source.known, *_known(data.get("known"), path)),
        derive=Derivation(earlier.source, tuple(VOID if i == VOID else ids[i] for i in earlier.ids), (*earlier.takes, *take), names),
        path=path,
        truth=_truth_with(data, labelset, path),
    )


def _seen_as(source: Labelset, name: str, derive: Mapping[str, Any], path: Path) -> tuple[Labelset, tuple[int, ...]]:
    """The labelset that ``map`` makes of the source's, and the class id in it of each class of the source."""
    if derive.get("map") is None:
        if derive.get("void") is not None:
            raise UserError(f"{path}: derive has 'void' but no 'map', expected both: map says which label each of the others becomes")
        return source, tuple(range(source.channels))
    entries = {}
    for label, value in _mapping(derive["map"], None, f"{path}: map").items():
        entry = _mapping(value, ("labels", "colour"), f"{path}: {label!r} of map") if isinstance(value, Mapping) else {"labels": value}
        entries[_text(label, "a label of map", path)] = entry
    takers = [(label, class_id, entry.get("labels")) for class_id, (label, entry) in enumerate(entries.items())]
    takers.append(("void", VOID, derive.get("void", [])))

    becomes: dict[str, int] = {}
    rest: list[tuple[str, int]] = []
    for label, class_id, sources in takers:
        if sources == REST:
            rest.append((label, class_id))
            continue
        for one in [] if sources == [] and class_id == VOID else _texts(sources, f"{label!r} of derive", path):
            if one not in source.labels:
                raise UserError(f"{path}: {label!r} is made of {one!r}, which {source.name} does not have; {nearest(one, source.labels)}")
            if one in becomes:
                raise UserError(f"{path}: derive names {one!r} of {source.name} twice, expected one label to take it")
            becomes[one] = class_id
    left = [one for one in source.labels if one not in becomes]
    if len(rest) > 1 or (rest and not left):
        found = f"'rest' for {' and '.join(repr(label) for label, _ in rest)}" if left else "'rest', but nothing is left"
        raise UserError(f"{path}: derive has {found}, expected it once, for what no other label takes")
    if left and not rest:
        raise UserError(f"{path}: derive does not say what becomes of {', '.join(left)}: name them in map or void, or give one the rest")
    if left:
        becomes |= dict.fromkeys(left, rest[0][1])

    ids = tuple(becomes[label] for label in source.labels)
    colours: list[Any] = []
    for label, entry in entries.items():
        sources = entry["labels"]
        if "colour" in entry:
            colours.append(_codes([entry["colour"]], "colour", f"{path}: {label!r} of map")[0])
        else:  # that of the first label it is made of; the rest is none in particular
            first = None if sources == REST else source.labels.index(_texts(sources, label, path)[0])
            colours.append(None if first is None else source.palette[first])
    return _coloured(name, list(entries), colours, path), ids


def _merged(codes: Codes, ids: tuple[int, ...], count: int) -> Codes:
    """What the codes mean once each class of the source is the class that ``ids`` says."""
    labels: list[tuple[Code, ...]] = [()] * count
    void = codes.void
    for own, class_id in zip(codes.labels, ids, strict=True):
        if class_id == VOID:
            void += own
        else:
            labels[class_id] += own
    rest = codes.rest if codes.rest in (None, VOID) else ids[codes.rest]
    return Codes(tuple(labels), void, codes.negative, rest)


def _take(raw: Any, path: Path) -> Take:
    raw = _mapping(raw, ("part", "of", "splits"), f"{path}: take")
    parts = raw.get("part") if isinstance(raw.get("part"), list) else [raw.get("part")]
    of, splits = raw.get("of"), _texts(raw.get("splits", list(SPLITS)), "splits of take", path)
    whole = all(type(n) is int for n in (*parts, of))
    if not whole or not parts or not 1 <= of <= 10_000 or not all(1 <= n <= of for n in parts) or len(set(parts)) < len(parts):
        raise UserError(f"{path}: take is {raw}, expected whole numbers such as {{part: 2, of: 7}}, with parts from 1 to 'of'")
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"{path}: take has the split {split!r}; {nearest(split, SPLITS)}")
    return Take(tuple(sorted(parts)), of, splits)


def _exclude(data: Mapping[str, Any], name: str, others: tuple[str, ...], path: Path) -> tuple[Exclusion, ...]:
    """The list of pictures that a YAML leaves out, if it names one."""
    if "exclude" not in data:
        return ()
    return (Exclusion(_text(data["exclude"], "exclude", path), path.parent, (name, *others)),)


def _known(raw: Any, path: Path) -> tuple[str, ...]:
    """Findings that are right so, each ``kind`` or ``kind:what``."""
    known = () if raw is None else tuple(map(composed, _texts(raw, "known", path)))
    for finding in known:
        kind = finding.partition(":")[0]
        if kind not in FINDINGS:
            raise UserError(f"{path}: known has {finding!r}, expected a kind of finding before the colon; {nearest(kind, FINDINGS)}")
        if finding in ("empty", "empty:val"):
            raise UserError(f"{path}: known has {finding!r}, but without validation pictures nothing can be trained: give the split some")
        if kind in FATAL:
            raise UserError(f"{path}: known has {finding!r}, but such a file cannot be trained on: mend it or list it in 'exclude'")
    return known


def _read_named(name: str, path: Path, seen: Collection[Path]) -> tuple[Path, Any]:
    """Path and content of the YAML that ``path`` names: a built-in dataset, or a file beside it."""
    beside = path.parent / name
    try:
        source, content = _read(beside if beside.suffix in (".yaml", ".yml") else name)
    except UserError as error:
        raise UserError(f"{path} takes from {name!r}: {error}") from None
    if source.resolve() in {one.resolve() for one in seen}:
        raise UserError(f"{path} takes from {name!r}, which takes from it in turn, expected a dataset that lists its labels")
    return source, content


def _read(name_or_path: str | Path) -> tuple[Path, Any]:
    """The path and the content of a dataset's YAML."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        if path.name not in (known := built_in_datasets()):
            raise UserError(f"unknown dataset {path.name!r}; {nearest(path.name, known)}; or give the path of a YAML")
        path = BUILT_IN / f"{path.name}.yaml"
    return path, read_yaml(path, "a dataset's YAML")


def _mapping(data: Any, known: Collection[str] | None, what: str, whole: bool = False) -> dict[str, Any]:
    """``data`` as a mapping, all of whose keys are known (None: any will do).

    What a ``whole`` file is instead is told by its kind alone: another YAML may have named it, which is none of its business.
    """
    if not isinstance(data, Mapping):
        keys = f" ({', '.join(known)})" if known else ""
        raise UserError(f"{what} is {form_of(data) if whole else repr(data)}, expected keys{keys} with values")
    for key in data:
        if known is not None and key not in known:
            raise UserError(f"{what} has the unknown key {key!r}; {nearest(str(key), known)}")
    return dict(data)


def _text(value: Any, key: str, path: Path) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: {key} is {value!r}, expected a text{QUOTES}")
    return value


def _texts(value: Any, key: str, path: Path) -> tuple[str, ...]:
    """One text or a list of them, as a tuple."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values or not all(isinstance(v, str) and v for v in values):
        raise UserError(f"{path}: {key} is {value!r}, expected a text or a list of texts{QUOTES}")
    return tuple(values)


def _globs(value: Any, key: str, path: Path) -> tuple[str, ...]:
    globs = _texts(value, key, path)
    for glob in globs:
        if Path(glob).is_absolute() or ".." in Path(glob).parts:
            raise UserError(f"{path}: {key} has {glob!r}, expected one beneath the folder: put the rest into 'folder'")
        if not Path(glob).parts:
            raise UserError(f"{path}: {key} has {glob!r}, expected a pattern of files such as '{key}/*.png'")
    return globs


def _expression(value: Any, key: str, path: Path) -> str | None:
    """A regular expression, or None."""
    if value is None:
        return None
    try:
        re.compile(_text(value, key, path))
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: {key} is {value!r}, which is not a regular expression: {error}") from error
    return composed(value)


def _together(value: Any, path: Path) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise UserError(f"{path}: together is {value!r}, expected a list of lists of keys")
    return tuple(tuple(map(composed, _texts(keys, "together", path))) for keys in value)


def _share(value: Any, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{path}: {key} of the split is {value!r}, expected a share from 0 to 1")
    return float(value)


def _whole(value: Any, key: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{path}: {key} of the split is {value!r}, expected a whole number")
    return value


def _split(raw: Any, named: Mapping[str, SplitRule], path: Path) -> SplitRule:
    """A split as the YAML says it, or the name of one of ``named``."""
    if isinstance(raw, str):
        if raw not in named:
            raise UserError(f"{path} has no split {raw!r}; {nearest(raw, named)}")
        return named[raw]
    raw = _mapping(raw, None, f"{path}: split")
    forms: dict[str, Callable[[dict[str, Any], Path], SplitRule]] = {
        "fractions": _fractions, "patterns": _patterns, "lists": _lists, "folds": _folds,
    }  # fmt: skip
    found = [form for form in forms if form in raw]
    if len(found) != 1:
        raise UserError(f"{path}: the split has {', '.join(map(str, raw)) or 'no key'}, expected one of {', '.join(forms)}")
    return forms[found[0]](raw, path)


def _fractions(raw: dict[str, Any], path: Path) -> Fractions:
    _mapping(raw, ("fractions", "seed"), f"{path}: split")
    given = _mapping(raw["fractions"], SPLITS, f"{path}: fractions")
    shares = {part: _share(given.get(part, 0), part, path) for part in SPLITS}
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"{path}: the fractions are {shares}, expected a sum of 1")
    return Fractions(**shares, seed=_whole(raw.get("seed", 0), "seed", path))


def _patterns(raw: dict[str, Any], path: Path) -> Patterns:
    return Patterns(*_named_parts(raw, "patterns", path))


def _lists(raw: dict[str, Any], path: Path) -> Lists:
    return Lists(*_named_parts(raw, "lists", path))


def _named_parts(
    raw: dict[str, Any], form: str, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...] | float, tuple[str, ...], int]:
    """Train, val, test and seed of a split by patterns or by lists."""
    _mapping(raw, (form, "seed"), f"{path}: split")
    parts = _mapping(raw[form], SPLITS, f"{path}: {form}")
    if "train" not in parts or "test" not in parts:
        raise UserError(f"{path}: the {form} name {', '.join(parts) or 'nothing'}, expected train and test")
    val = parts.get("val", 0)
    return (
        _texts(parts["train"], "train", path),
        _share(val, "val", path) if isinstance(val, int | float) else _texts(val, "val", path),
        _texts(parts["test"], "test", path),
        _whole(raw.get("seed", 0), "seed", path),
    )


def _folds(raw: dict[str, Any], path: Path) -> Folds:
    _mapping(raw, ("folds", "count", "test", "val", "seed"), f"{path}: split")
    count, test = _whole(raw.get("count", 5), "count", path), _whole(raw.get("test", 1), "test", path)
    if count < 2 or not 1 <= test <= count:
        raise UserError(f"{path}: fold {test} of {count} shall test, expected one of at least 2 folds")
    files = None if raw["folds"] is None else _text(raw["folds"], "folds", path)
    if files is not None and "{}" not in files:
        raise UserError(f"{path}: folds is {files!r}, expected a file name with {{}} for the number of the fold")
    return Folds(files, count, test, _share(raw.get("val", 0), "val", path), _whole(raw.get("seed", 0), "seed", path))


def _borrowed_labelset(data: Mapping[str, Any], path: Path) -> tuple[str, Any, Any]:
    """Name, labels and void of the labelset, from the YAML that lists them: this one, or the one that it names."""
    own_void, source, seen = data.get("void"), path, [path]
    while isinstance(labels := data["labelset"], str) or (isinstance(labels, Mapping) and "labelset" in labels):
        if isinstance(labels, str):
            source, content = _read_named(labels, source, seen)
            seen.append(source)
        else:
            content = labels
        data = _mapping(content, KEYS, str(source), whole=True)
        if not {"name", "labelset"} <= data.keys():
            raise UserError(f"{path} takes its labelset from {labels!r}, expected a dataset that lists its labels")
    return data["name"], labels, data.get("void") if own_void is None else own_void


def _labelset(name: str, raw: Any, raw_void: Any, encoding: str, path: Path) -> tuple[Labelset, Codes]:
    """The labelset, and what the codes in its files mean."""
    if not isinstance(raw, list):
        raise UserError(f"{path}: labelset is {raw!r}, expected a list of labels or the name of another dataset")
    keys = ("label", "colour", "codes")
    entries = [{"label": e} if isinstance(e, str) else _mapping(e, keys, f"{path}: an entry of labelset") for e in raw]
    labels = [_text(entry.get("label"), "a label", path) for entry in entries]
    given = [_codes([e["colour"]], "colour", f"{path}: {e['label']!r}")[0] if "colour" in e else None for e in entries]
    labelset = _coloured(name, labels, given, path)

    codes: list[tuple[Code, ...]] = []
    rest = VOID if raw_void == REST else None
    for position, (label, entry) in enumerate(zip(labels, entries, strict=True)):
        own = entry.get("codes", entry.get("colour") if encoding == "colour" else [label] if encoding in NAMED else position)
        if own is None:
            raise UserError(f"{path}: {label!r} has neither colour nor codes, but with encoding: colour it needs one")
        if own == REST and rest is not None:
            other = "void" if rest == VOID else repr(labels[rest])
            raise UserError(f"{path}: both {other} and {label!r} have the codes 'rest', expected one at most")
        if own == REST:
            rest = position
        codes.append(() if own == REST else _codes(own, encoding, f"{path}: {label!r}"))
    listed = raw_void not in (None, [], REST, NEGATIVE)
    void = _codes(raw_void, encoding, f"{path}: void") if listed else ()

    if encoding in OBJECTS and (rest is None or raw_void == NEGATIVE):
        raise UserError(
            f"{path} does not say what a pixel is that no object covers: write 'void: rest' if the annotators left things out, or give a "
            "label '{label: other, codes: rest}' if they marked every object"
        )

    owner: dict[Code, str] = {}
    for label, own in zip((*labels, "void"), (*codes, void), strict=True):
        for code in own:
            if code in owner:
                raise UserError(f"{path}: the code {code} belongs to {owner[code]!r} and {label!r}, expected only one")
            owner[code] = label
    return labelset, Codes(tuple(codes), void, raw_void == NEGATIVE, rest)


def _coloured(name: str, labels: list[str], given: list[Any], path: Path) -> Labelset:
    """A labelset in the given colours, with others chosen where one is None."""
    try:
        return Labelset(name, labels, given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _codes(raw: Any, encoding: str, what: str) -> tuple[Code, ...]:
    """One code or a list of codes, as a tuple: whole numbers, or (R, G, B)."""

    def is_code(value: Any) -> bool:
        if encoding in NAMED:
            return isinstance(value, str) and bool(value)
        if encoding != "colour":
            return type(value) is int and -(2**15) <= value < 2**24
        return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)

    codes = [raw] if is_code(raw) else raw
    if not isinstance(codes, list) or not codes or not all(map(is_code, codes)):
        expected = "colours [R, G, B] with values 0..255" if encoding == "colour" else "whole numbers"
        expected = f"names of labels{QUOTES}" if encoding in NAMED else expected
        raise UserError(f"{what} has {raw!r}, expected {expected}")
    return tuple(tuple(code) if isinstance(code, list) else code for code in codes)
