"""Every setting of a run: its name, default, meaning and range, declared once.

``--help`` shows what is declared here, :func:`validate` refuses what is out of range, and :func:`from_plain` reads settings back from the
files that hold them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from densemtmd.errors import UserError
from densemtmd.tasks import nearest

S = TypeVar("S")

MOST = 100_000
"""Crops in a batch, labelled pixels along a crop, channels of a hidden layer, batches to overfit."""


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    why: str = "",
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where none is given.
        help: the line that ``--help`` shows for it.
        choices: the words that it may be.
        least, most, below: the range of a number.
        why: what is wrong with a number out of it, where the range does not tell.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "least": least, "most": most, "below": below, "why": why})


def validate(settings: Any, prefix: str = "") -> None:
    """Refuses words that are not among a setting's choices, and numbers out of its range.

    Args:
        settings: a dataclass of settings; those inside it are looked at too.
        prefix: of the settings' names, such as ``train.``.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    for one in fields(settings):
        value, name = getattr(settings, one.name), f"{prefix}{one.name}"
        if is_dataclass(value):
            validate(value, f"{name}.")
        elif choices := one.metadata.get("choices"):
            if value not in choices:
                raise UserError(f"{name} is {value!r}; {nearest(str(value), choices)}")
        elif isinstance(value, int | float) and not _inside(value, one.metadata):
            why = f": {one.metadata['why']}" if one.metadata["why"] else ""
            raise UserError(f"{name} is {value}, expected {_range(one.metadata)}{why}")


def _inside(value: float, limits: Mapping[str, Any]) -> bool:
    """Whether a number is in its range; NaN and infinity are in none."""
    least, most, below = (limits.get(key) for key in ("least", "most", "below"))
    if least is None:
        return True
    return least <= value < math.inf and (most is None or value <= most) and (below is None or value < below)


def _range(limits: Mapping[str, Any]) -> str:
    words = {"least": "at least", "most": "at most", "below": "below"}
    return " and ".join(f"{word} {limits[key]}" for key, word in words.items() if limits[key] is not None)


# ------------------------------------------------------------------------------------------------------------------------------------
# The settings


@dataclass
class DataSettings:
    """Which datasets are trained on: a file in ``conf/data/``, or ``data.<name>=<value>``."""

    name: str = setting("own", "what runs and tables call the choice")
    datasets: list[str] = field(default_factory=list, metadata={"help": "built-in names (conf/dataset/), or paths of your own YAMLs"})
    add: Any = setting(None, "one more of these, or a list: data=stanford data.add=mine.yaml trains on both")
    domain: Any = setting(None, "another domain than the datasets' own: for all of them, or by their own, as in {kitti: street}")
    split: str | None = setting(None, "another of the splits that a dataset's YAML names, such as official")
    fold: int | None = setting(None, "which fold tests, where a dataset's split is by folds")
    share: dict[str, Any] | None = setting(
        None, "of datasets' pictures to train and validate on, {stanford: 0.25}: what if fewer were labelled?"
    )
    world: dict[str, Any] | None = setting(None, "settings of the street world in which those of the seven lie; rendered where absent")
    otherworld: dict[str, Any] | None = setting(None, "settings of the other world, for the dataset of that name; rendered where absent")


@dataclass
class TrainSettings:
    """How networks are trained: ``train.<name>=<value>`` on the command line."""

    epochs: float | None = setting(20.0, "budget: an epoch is one strided pass over the training pictures (see epoch_outputs)")
    minutes: float | None = setting(
        None, "budget: wall-clock minutes, validation included; the first budget that is used up ends the training"
    )
    outputs: int | None = setting(None, "budget: labelled outputs of the network")
    epoch_outputs: int = setting(250_000, "an epoch has at most this many labelled outputs; after each the network is validated", least=1)
    patience: int = setting(10, "early stopping: epochs without a better validation score before the training ends; 0: never", least=0)
    crop: int = setting(
        8,
        "side of a crop in labelled pixels, of which every 4th is answered for (fpn, unet, ...: all); 0: whole pictures; 1: single patches",
        least=0,
        most=MOST,
        why="nothing larger fits into a memory",
    )
    batch: int = setting(
        64, "crops per step; they mix the datasets (model=frozen: cells)", least=1, most=MOST, why="nothing larger fits into a memory"
    )
    rare: float = setting(
        0.0, "share of the crops (model=frozen: cells) drawn label by label, so that a rare label is seen as often as any", least=0, most=1
    )
    mixing: str = setting("pixels", "shares of the datasets: pixels (the paper), uniform, temperature:2, or weights such as kundu:2+xu:1")
    flip: bool = setting(True, "mirror half of the crops (the paper's only augmentation)")
    scale: list[float] = field(
        default_factory=lambda: [1.0, 1.0],
        metadata={"help": "least and most by which what a crop shows is made larger, e.g. [0.5,2] (fpn, unet, ...)"},
    )
    colour: float = setting(
        0.0, "share by which the saturation, contrast and brightness of a crop are changed at most; 0: the paper", least=0, below=1
    )
    blur: float = setting(0.0, "share of the crops that are blurred", least=0, most=1)
    border: str = setting(
        "reflect",
        "reflect: the border of a picture is reflected, every pixel is asked for; valid: only patches that fit inside",
        choices=("reflect", "valid"),
    )
    optimizer: str = setting("adam", "adam (section 4.4; with decoupled weight decay), or sgd (section 4.1)", choices=("sgd", "adam"))
    lr: float = setting(0.001, "learning rate after warm-up; of sgd about ten times that of adam", least=0)
    encoder_lr: float = setting(1.0, "of an encoder that may have learned elsewhere (fpn, unet, ...), in multiples of train.lr", least=0)
    freeze: float = setting(0.0, "share of the budget at whose beginning that encoder does not learn", least=0, most=1)
    clip: float = setting(0.0, "the gradient's norm is cut to this; 0: it is not", least=0)
    accumulate: int = setting(
        1, "parts of a batch that go through the network one after the other, for large batches in little memory", least=1, most=MOST
    )
    average: float = setting(
        0.0,
        "share that the running mean of the weights keeps at each step; that mean is validated and saved; 0: there is none",
        least=0,
        below=1,
    )
    momentum: float = setting(0.9, "of SGD, with Nesterov's correction", least=0, below=1)
    weight_decay: float = setting(1e-4, "on weights, not on biases and batch norms", least=0)
    warmup: float = setting(0.02, "share of the budget over which the learning rate climbs from 0", least=0, below=1)
    schedule: str = setting(
        "cosine", "cosine: the learning rate then falls to 0 along a cosine; constant: it stays", choices=("cosine", "constant")
    )
    precision: str = setting(
        "auto",
        "float32; bfloat16 for the layers where it is safe; auto: bfloat16 where the hardware computes in it",
        choices=("auto", "float32", "bfloat16"),
    )
    sync_norms: bool = setting(
        True, "of several processes (torchrun): batch norms see the crops of all of them, as of one; false: each process its own"
    )
    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, ...")
    workers: int = setting(
        0,
        "processes that cut the crops, for a GPU that learns faster than one core cuts; 0: a thread",
        least=0,
        most=256,
        why="one per core of the machine is plenty",
    )
    validation_pictures: int = setting(40, "at most this many validation pictures per dataset are scored after an epoch; 0: all", least=0)
    validation_pixels: int = setting(
        2**22, "of a larger validation picture a part in its middle is scored after an epoch, of so many pixels; 0: all", least=0
    )
    overfit: int = setting(
        0,
        "a check that the training can learn: so many batches, over and over, until 99 % are right (hands: to 10 mm)",
        least=0,
        most=MOST,
        why="nothing larger fits into a memory",
    )
    checkpoint_seconds: float = setting(60.0, "seconds between checkpoints; there is one after each epoch too", least=0)


@dataclass
class LossSettings:
    """What training makes small, of pixels: ``loss.<name>=<value>``. Each is taken over a sample's own labelset alone."""

    mix: str = setting("cross_entropy", "cross_entropy, dice, focal, or a mixture by weights such as cross_entropy:1+dice:0.5")
    gamma: float = setting(2.0, "γ of the focal loss: the larger, the less counts what is right already", least=1, most=10)
    smoothing: float = setting(0.0, "share of each target that is spread evenly over its labelset (cross_entropy)", least=0, below=1)
    balance: float = setting(
        0.0, "weight labels by their frequency within their labelset to the minus this; 0: all pixels weigh the same; 1: all labels do",
        least=0, most=1,
    )


@dataclass
class ContextSettings:
    """The shared context θ' of the strategies that have it: ``context.<name>=<value>``."""

    form: str = setting(
        "paper",
        "paper: new answers from those under all labelsets; residual: added to the joint network's, zero at first",
        choices=("paper", "residual"),
    )
    hidden: int = setting(300, "channels of the hidden layer (the paper's, for hands)", least=1, most=MOST)
    inner_weight: float = setting(
        0.0,
        "share of the loss that stays on the joint network's own answers; 0: the paper",
        least=0,
        below=1,
        why="at 1 the context learns nothing",
    )
    trunk: str = setting(
        "finetuned", "finetuned: the joint network goes on learning below the context; frozen: it does not", choices=("finetuned", "frozen")
    )


@dataclass
class ReversalSettings:
    """Gradient reversal of the strategies that have it: ``reversal.<name>=<value>``."""

    strength: float = setting(0.1, "λ: the domain classifier's gradient reaches the features multiplied by -λ", least=0)
    schedule: str = setting("ramp", "ramp: λ grows from 0 as in Ganin and Lempitsky 2015; constant: it stays", choices=("ramp", "constant"))
    hidden: int = setting(128, "channels of the domain classifier's hidden layer", least=1, most=MOST)
    at: str = setting(
        "features",
        "what the domain classifier sees: features, or the encoder's deepest map (fpn, unet, ...)",
        choices=("features", "deepest"),
    )
    lr: float = setting(10.0, "its learning rate, in multiples of train.lr: it must keep up with the features that flee from it", least=0)

    def strength_at(self, progress: float) -> float:
        """λ when a share ``progress`` of the budget is used up; ramped it is λ·(2 / (1 + exp(−10·progress)) − 1)."""
        return self.strength * (1.0 if self.schedule == "constant" else 2 / (1 + math.exp(-10 * min(progress, 1.0))) - 1)


@dataclass
class HandsSettings:
    """How hands are shown to the network: ``hands.<name>=<value>``. Augmentation is off by default, as in the paper."""

    rotate: float = setting(0.0, "degrees by which training hands are turned in the picture at most", least=0, most=180)
    scale: float = setting(0.0, "share of its size by which a training hand is made larger or smaller at most", least=0, most=0.5)
    shift: float = setting(0.0, "mm by which a training hand is moved at most, in each direction", least=0, most=100)
    loss: str = setting(
        "cube",
        "cube: errors as parts of the cube, so that 1 mm in ICVL's smaller one weighs 1.44 times as much; mm",
        choices=("cube", "mm"),
    )


@dataclass
class ScoreSettings:
    """How the trained network is scored, and on which pictures: ``score.<name>=<value>``."""

    scoring: str = setting(
        "dense",
        "dense: every labelled pixel; strided: every 4th pixel of every 4th row, at a 16th of the cost",
        choices=("dense", "strided"),
    )
    interior: bool = setting(False, "score only pixels whose patch lies wholly inside the picture, as the paper samples")
    mirror: bool = setting(False, "label each picture mirrored too, and take the mean of the probabilities (pixels, dense)")
    scales: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "enlarge each picture by these, and take the mean of the probabilities, e.g. [1,1.5] (pixels, dense)"},
    )
    split: str = setting(
        "test", "test; val: the validation pictures, to choose settings by without a look at the test pictures", choices=("test", "val")
    )
    probe: bool = setting(True, "with several domains: how well a fresh classifier tells them apart by the features")

    @property
    def way(self) -> dict[str, Any]:
        """Which pixels are scored, and by which copies of a picture they are answered."""
        return {"scoring": self.scoring, "interior": self.interior, "mirror": self.mirror, "scales": self.scales}

    @property
    def copies(self) -> bool:
        """Whether pictures are answered by more than themselves."""
        return self.mirror or self.scales != [1.0]


@dataclass
class RunSettings:
    """All settings of a run; the groups ``data``, ``model`` and ``strategy`` are files in ``conf/``."""

    data: DataSettings = field(default_factory=DataSettings)
    model: dict[str, Any] = field(default_factory=dict)  # which network: a file in conf/model/
    strategy: dict[str, Any] = field(default_factory=dict)  # how to train: a file in conf/strategy/
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    context: ContextSettings = field(default_factory=ContextSettings)
    reversal: ReversalSettings = field(default_factory=ReversalSettings)
    hands: HandsSettings = field(default_factory=HandsSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    seed: int = setting(0, "of weights, batches and dropout", least=0, most=2**32 - 1)
    data_root: str = setting("data", "the folder that holds the datasets' folders")
    cache: str = setting("auto", "where decoded pictures are kept for later runs: auto (.cache in the data root), none, or a folder")
    runs: str = setting("runs", "the folder that run folders are made in")
    debug: bool = setting(False, "everything at toy size, to see within seconds whether it works")
    name: str | None = setting(None, "of the run; by default <data>-<strategy>")
    tracking: str = setting("mlflow", "mlflow, tensorboard, none, or a function of your own, module:function")
    register: str | None = setting(None, "in MLflow's registry, the model that the network becomes a version of")
    tracking_uri: str | None = setting(
        None, "MLflow's store (by default sqlite:///mlflow.db, or MLFLOW_TRACKING_URI where it is set), or TensorBoard's folder"
    )


# ------------------------------------------------------------------------------------------------------------------------------------
# Reading them back


def from_plain(of: type[S], data: Any, name: str = "") -> S:
    """A dataclass from plain data as a file holds them, its types checked.

    Args:
        of: the dataclass; its fields are numbers, texts, truth values, lists, mappings, other dataclasses, or None.
        data: a mapping of its fields; those that are missing keep their defaults.
        name: of the data, for messages.

    Raises:
        UserError: a field that is unknown, missing or of another type.
    """
    types = get_type_hints(of)
    if not isinstance(data, Mapping):
        raise UserError(f"{name or 'the whole'} is {data!r:.60}, expected names with values")
    values = {}
    for key, value in data.items():
        if key not in types:
            raise UserError(f"{name} has the unknown {key!r}; {nearest(str(key), types)}".lstrip())
        full = f"{name}.{key}".lstrip(".")
        values[key] = from_plain(types[key], value, full) if is_dataclass(types[key]) else value
        if not is_dataclass(types[key]) and not _fits(value, types[key]):
            raise UserError(f"{full} is {value!r:.60}, expected {getattr(types[key], '__name__', types[key])}")
    try:
        return of(**values)
    except TypeError:
        needed = ", ".join(f.name for f in fields(of) if f.default is MISSING and f.default_factory is MISSING)  # type: ignore[arg-type]
        raise UserError(f"{name or 'the whole'} lacks a value, expected {needed}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as annotations write it."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, *inner) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, inner[0]) for key in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is origin
