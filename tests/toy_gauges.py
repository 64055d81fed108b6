"""A third kind of task, for the tests of what a kind is: one number per picture, read off dials. Not a test itself.

Shapes: ``N`` pictures, ``G`` gauges. What is found of pictures is how far answers are off, (N, G).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from densemtmd.datasets.config import DEFAULT_SPLIT, Codes, DatasetConfig
from densemtmd.datasets.folder import Dataset, Item, Loaded, spread
from densemtmd.datasets.mixing import shares
from densemtmd.datasets.sample import Batch
from densemtmd.kind import Kind, Measure
from densemtmd.losses import selective_l2
from densemtmd.tasks import OutputSpace


@dataclass(frozen=True)
class GaugeSet:
    name: str
    gauges: tuple

    kind: ClassVar[str] = "gauge"
    words: ClassVar[str] = "gauge"
    of_probabilities: ClassVar[bool] = False

    @property
    def channels(self):
        return len(self.gauges)

    @property
    def channel_names(self):
        return tuple(self.gauges)

    def to_json(self):
        return {"kind": self.kind, "name": self.name, "gauges": list(self.gauges)}


class Dials:
    """Batches of whole pictures."""

    def __init__(self, sources, tasks, batch, seed):
        self.sources, self.tasks, self.batch_size, self.seed = sources, tasks, batch, seed
        self.shares = shares([len(source[0]) for source in sources], "pixels")

    def about(self):
        return {str(n): {"share": float(share)} for n, share in enumerate(self.shares)}

    def augmented(self, batch, own=None):
        return batch

    def batch(self, step, own=None):
        random = np.random.default_rng([self.seed, step])
        of = random.choice(len(self.sources), self.batch_size, p=self.shares)
        chosen = [(self.sources[k], random.integers(len(self.sources[k][0]))) for k in of]
        images = np.stack([pictures[n] for (pictures, _), n in chosen])
        values = np.stack([[value[n]] for (_, value), n in chosen]).astype(np.float32)
        batch = Batch(
            image=torch.from_numpy(images).permute(0, 3, 1, 2), target=torch.from_numpy(values),
            task=torch.tensor([self.tasks[k] for k in of]), domain=torch.zeros(len(of), dtype=torch.int64), weight=torch.ones(len(of)),
        )  # fmt: skip
        return batch if own is None else batch.some(own)


class Gauges(Kind):
    name, task, encodings, model, shows = "gauges", GaugeSet, ("gauge",), "meter", "dials"
    measures = (Measure("off", "off", "units off", "mean distance, validation", digits=3, less_is_better=True),)
    chief = measures[0]

    def space(self, gauges):
        return OutputSpace([GaugeSet("any", tuple(gauges))])

    def config(self, data, path):
        return DatasetConfig(
            name=data["name"], domain="all", folder=data["name"], images=(), labels=(), key=None, encoding="gauge", mat_key=None,
            task=GaugeSet(data["name"], tuple(data["gauges"])), codes=Codes((), (), False, None), sequence=None, together=(),
            split=DEFAULT_SPLIT, splits={}, exclude=(), known=(), where=None, derive=None, path=path,
        )  # fmt: skip

    def open(self, config, data_root, **how):
        file = data_root / config.folder / "all.npz" if (data_root / config.folder).is_dir() else data_root / "all.npz"
        items = [Item(str(n), file, file, str(n)) for n in range(40)]
        splits = {"train": tuple(items[:24]), "val": tuple(items[24:32]), "test": tuple(items[32:])}
        return Dataset(
            name=config.name, domain=config.domain, config=config, folder=file.parent, splits=splits, notes=(), codes=None,
            cut=frozenset(), without_labels=(), without_picture=(),
        )  # fmt: skip

    def load(self, datasets, network, settings, cache, at_most=0):
        loaded = {}
        for dataset in datasets:
            with np.load(dataset.folder / "all.npz") as stored:
                rows = {split: [int(item.key) for item in items] for split, items in dataset.splits.items()}
                pictures, value = stored["pictures"], stored["value"]
                loaded[dataset.name] = Loaded(dataset, {split: (pictures[of], value[of]) for split, of in rows.items()})
        return loaded

    def outputs_of(self, data, network):
        return len(data.pictures["train"][0])

    def mixture(self, data, split, network, settings, seed, *, domains, mixing, equilibrium=False):
        tasks = [network.space.index(d.dataset.task.name) for d in data]
        return Dials([d.pictures[split] for d in data], tasks, settings.train.batch, seed)

    def shown(self, network, crop):
        return 3, 8, 8

    def loss(self, outputs, batch, space):
        return selective_l2(outputs, batch.target, torch.ones_like(batch.target, dtype=torch.bool), batch.task, space, batch.weight)

    def fitted(self, network, mixture, batches, data, device):
        raise AssertionError("not asked for")

    def learned(self, scored):
        return None

    def score(self, network, data, split, at_most, how, device, tick=lambda count: None, precision="float32", most_pixels=0):
        pictures, value = data.pictures[split]
        rows = list(spread(range(len(pictures)), at_most))
        network.eval()
        with torch.inference_mode():
            x = torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2).float() / 255
            found = network(x)[:, network.space.slice(data.dataset.task.name), 0, 0].numpy()
        tick(len(rows))
        return np.abs(found - value[rows][:, None])

    def for_scoring(self, dataset, split, network, cache):
        return self.load([dataset], network, None, cache)[dataset.name]

    def across(self, networks, datasets, split, how, **where):
        raise AssertionError("not asked for")

    def report(self, found, tasks):
        off = {name: float(each.mean()) for name, each in found.items()}
        return {"pooled": {"off": float(np.mean(list(off.values())))}, "datasets": {name: {"off": value} for name, value in off.items()}}

    def arrays(self, name, found):
        return {name: found}

    def stored(self, arrays, name, about):
        return arrays[name]

    def tally(self, found):
        return np.stack([found.mean(1), np.ones(len(found))], 1)[..., None]

    def pooled(self, tallies):
        off, count = np.moveaxis(np.concatenate(tallies, -1), -2, 0)
        return (off.sum(-1) / count.sum(-1))[..., None]

    def asked(self, found):
        return np.ones(found.shape)

    def parts(self, about):
        return ["light"]

    def table(self, scored):
        return "\n".join(f"{name} off {each['off']:.3f}" for name, each in scored["datasets"].items())

    details = markdown = table

    def figures(self, found, tasks, folder):
        pass

    def drawn(self, network, data, at_most, device):
        return [("0", Image.fromarray(data.pictures["val"][0][0]))]

    def measured(self, scored, split):
        return f"Mean distance on the {split} dials"

    def protocol(self, train, model):
        return "whole dials"

    def next_step(self, folder):
        return f"read dials with {folder}"


KIND = Gauges()
