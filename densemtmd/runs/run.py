"""A run: from settings to a folder (:mod:`densemtmd.runs.folder`) with a trained network, its scores, and a record of both."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from densemtmd import backbones, checkpoint, evaluation
from densemtmd.data import domains_of, load, open_data, output_space
from densemtmd.datasets.folder import Dataset, Loaded
from densemtmd.datasets.mixing import shares
from densemtmd.datasets.sample import Item
from densemtmd.draw.figures import curves_figure
from densemtmd.errors import UserError
from densemtmd.files import atomic_write, check_writable, read_json, remove_strays, write_json, write_text
from densemtmd.kind import kind_of, kind_of_scores
from densemtmd.network import JointNetwork
from densemtmd.runs.folder import make_folder, new_folder, record, reopen, tracked
from densemtmd.settings import ContextSettings, ReversalSettings, RunSettings, ScoreSettings, validate
from densemtmd.strategies import Stage, stages
from densemtmd.tasks import Labelset, OutputSpace, Task
from densemtmd.tracking import Tracker, environment_tags, open_tracker
from densemtmd.training import State, budget, check_workers, fit

VALIDATION_PICTURES = 8
"""About so many validation pictures are kept, labelled, after each epoch; the same ones every time."""


@dataclass(frozen=True)
class Table:
    """The table that a run belongs to."""

    folder: Path
    run_id: str | None  # under which the tracker knows it


def run(settings: RunSettings, overrides: Sequence[str] = (), table: Table | None = None, name: str | None = None) -> Path:
    """Trains and scores what the settings say; returns the run's folder.

    Args:
        settings: all of them.
        overrides: those that were asked for, for the record.
        table: the table that the run belongs to, in whose folder its own is then, without the time in its name.
        name: of the run's folder in a table's.

    Raises:
        UserError: whatever a person can mend.
    """
    if settings.debug:
        settings = toy_size(settings)
    outline = check(settings)
    check_writable(settings.runs, "runs=")
    datasets = open_data(settings.data, settings.data_root)
    plan = stages(settings.strategy, [dataset.name for dataset in datasets])
    check_answers(plan, datasets, settings.strategy["name"])
    check_model(outline, datasets, settings)
    loaded = load(datasets, outline, settings)
    # MLflow's tables cut long names, and those of one experiment have its data in common.
    run_name = name or f"{settings.name or settings.strategy['name']}-{settings.model['name']}-seed{settings.seed}"
    if table is None:
        folder, parent = new_folder(Path(settings.runs), settings.name or f"{settings.data.name}-{settings.strategy['name']}"), None
    else:
        folder, parent = table.folder / run_name, table.run_id
        if not make_folder(folder):
            raise UserError(f"the run's folder {folder} cannot be made, it is there already: is this table being run twice at once?")
    try:
        record(folder, settings, datasets)
        opened = open_tracker(settings.tracking, settings.data.name, run_name, settings.tracking_uri, parent=parent)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)  # there is nothing in it yet that one could resume from
        raise
    with opened as tracker:
        write_json(folder / "tracking.json", {"": tracker.run_id})
        describe(tracker, settings, datasets, folder, overrides)
        carry_out(plan, loaded, settings, folder, tracker, table)
    return folder


def resume(folder: str | Path, table: Table | None = None) -> Path:
    """Goes on with an interrupted run, in its folder and under its id in MLflow; its settings are those in its ``config.yaml``.

    Raises:
        UserError: no run there, or its data are no longer what they were.
    """
    folder = Path(folder)
    settings, datasets = reopen(folder)
    try:
        outline = check(settings)
        plan = stages(settings.strategy, [dataset.name for dataset in datasets])
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from None
    remove_strays(folder)
    loaded = load(datasets, outline, settings)
    run_id = tracked(folder).get("")
    tracking = settings.tracking if run_id else "none"
    with open_tracker(tracking, settings.data.name, folder.name, settings.tracking_uri, resume=run_id) as tracker:
        tracker.tags({"resumed": datetime.now().isoformat(" ", "seconds")})
        carry_out(plan, loaded, settings, folder, tracker, table)
    return folder


def carry_out(
    plan: Sequence[Stage],
    loaded: Mapping[str, Loaded],
    settings: RunSettings,
    folder: Path,
    tracker: Tracker,
    table: Table | None = None,
) -> None:
    """Trains the stages one after the other and scores what they learned; what an earlier attempt has finished is not trained again."""
    device = checkpoint.device_of(settings.train.device)
    counts = ", ".join(f"{name} {d.counts}" for name, d in loaded.items())
    print(f"{folder}: {settings.strategy['name']} on {counts} (pictures to train/validate/test)")
    several = sum(stage.answers for stage in plan) > 1  # networks that answer, each for its datasets
    homes = {stage.name: folder / stage.name if several or not stage.answers else folder for stage in plan}
    matrices: dict[str, Any] = {}
    domains: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    training: dict[str, dict[str, Any]] = {}
    for stage in plan:
        data = [loaded[name] for name in stage.datasets]
        home = homes[stage.name]
        start = None if stage.start is None else homes[stage.start] / "best.safetensors"
        recipes[stage.name] = recipe(stage, data, loaded, settings, recipes.get(stage.start or ""))
        if table is not None:
            take_over(recipes[stage.name], home, table.folder)
        with nullcontext(tracker) if home == folder else child(tracker, stage.name, folder) as log:
            network, state = train_stage(stage, data, list(loaded.values()), settings, home, start, device, log)
            curves_figure(state.history, home / "figures" / "curves.png")
            training[stage.name] = trained(stage, state, data, list(loaded.values()), network, settings)
            if stage.answers:
                matrices |= score_all(network, data, settings.score, device)
                if settings.score.probe and (named := domains_of(data)):
                    domains[stage.name] = {"names": named, **probe_domains(network, data, settings)}
                    log.metrics({"test/domain_accuracy": domains[stage.name]["accuracy"]}, step=state.step)
    finish(folder, matrices, {"training": training, "domains": domains}, {name: d.dataset for name, d in loaded.items()}, settings, tracker)


def trained(
    stage: Stage, state: State, data: Sequence[Loaded], everything: Sequence[Loaded], network: JointNetwork, settings: RunSettings
) -> dict[str, Any]:
    """What ``scores.json`` says of a stage's training: ``passes`` are labelled outputs, by those of one strided pass over the pictures that
    it learned from; it ``stopped_early`` where its budget was not used up."""
    own, whole = (sum(kind_of(network.space.kind).outputs_of(d, network) for d in some) for some in (data, everything))
    used = budget(settings.train, whole, stage.budget).progress(state.outputs, state.seconds)
    return {
        "steps": state.step, "outputs": state.outputs, "passes": round(state.outputs / max(1, own), 4), "epochs": state.epoch,
        "best_epoch": state.best_epoch, "stopped_early": used < 1,
    }  # fmt: skip


def recipe(
    stage: Stage, data: Sequence[Loaded], everything: Mapping[str, Loaded], settings: RunSettings, start: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All that a stage's weights depend on, as plain JSON: two stages of one recipe learn the same."""

    def pictures(d: Loaded) -> str:
        config, keys = d.dataset.config, [[item.key for item in d.dataset.splits[split]] for split in ("train", "val")]
        meaning = [d.dataset.task.to_json(), repr(config.codes), repr(config.derive and config.derive.ids)]
        return hashlib.sha256(json.dumps([str(d.dataset.folder.absolute()), meaning, keys]).encode()).hexdigest()

    train = {k: v for k, v in asdict(settings.train).items() if k not in ("device", "workers", "checkpoint_seconds")}
    made = {
        "datasets": {d.name: [d.dataset.domain, pictures(d)] for d in data},
        "epoch_over": {name: pictures(d) for name, d in everything.items()},
        "model": settings.model, "train": train, "seed": settings.seed, "start": start,
        **{key: getattr(stage, key) for key in ("budget", "take", "equilibrium", "reversal", "context")},
        "context_settings": asdict(settings.context) if stage.context else None,
        "reversal_settings": asdict(settings.reversal) if stage.reversal else None,
        **{group: asdict(getattr(settings, group)) for group in kind_of(data[0].dataset.task.kind).settings},
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def take_over(wanted: Mapping[str, Any], home: Path, table: Path) -> None:
    """Copies a stage's checkpoints from another run of the table, where that has trained one of the same recipe to its end."""
    if not (home / "recipe.json").exists():
        write_json(home / "recipe.json", wanted)
    if (home / "last.safetensors").exists():
        return
    for file in sorted(table.glob("*/recipe.json")) + sorted(table.glob("*/*/recipe.json")):
        last, best = (file.with_name(f"{which}.safetensors") for which in ("last", "best"))
        if file.parent == home or not last.exists() or not best.exists() or read_json(file) != wanted:
            continue
        if checkpoint.load(last)[1].get("state", {}).get("done") is True:
            print(f"{home.name}: the same as {file.parent.relative_to(table)}, which is trained already")
            for checkpoints in (best, last):  # last is what makes it count as trained
                with atomic_write(home / checkpoints.name) as temporary:
                    shutil.copyfile(checkpoints, temporary)
            return


def check(settings: RunSettings) -> JointNetwork:
    """Refuses, before anything is loaded, settings that would fail later.

    Returns:
        The network without memory, on torch's meta device, and for labels that mean nothing: it says how the trained ones will see.
    """
    validate(settings)
    budget(settings.train, 1)
    shares([1], settings.train.mixing)
    with torch.device("meta"):  # which has no memory
        outline = backbones.build(settings.model, OutputSpace([Labelset("any", ["one", "other"])]))
    if settings.reversal.at != ReversalSettings().at:
        outline.add_discriminator(2, settings.reversal.hidden, settings.reversal.at)
    if outline.trunk is not None and (settings.train.flip or settings.train.colour):
        raise UserError(
            f"train.flip is {str(settings.train.flip).lower()} and train.colour {settings.train.colour}, but this model learns from "
            "features of pictures as they are: use train.flip=false and train.colour=0, as protocol=frozen does"
        )
    check_workers(settings.train.workers)
    kind_of(outline.takes).check_way(settings.score)
    if settings.name and Path(settings.name).name != settings.name:
        raise UserError(f"name is {settings.name!r}, expected one without {os.sep}: it becomes the name of a folder below {settings.runs}")
    checkpoint.device_of(settings.train.device)
    return outline


def check_model(outline: JointNetwork, datasets: Sequence[Dataset], settings: RunSettings) -> None:
    """Refuses a network that does not take what the datasets show."""
    kind = kind_of(output_space(datasets).kind)
    if outline.takes != kind.task.kind:
        what = f"what {datasets[0].name} shows, {kind.shows}"
        raise UserError(f"model={settings.model.get('name')} does not take {what}: choose model={kind.model}")


def check_answers(plan: Sequence[Stage], datasets: Sequence[Dataset], strategy: str) -> None:
    """Refuses a plan by which two networks would answer under one labelset: nobody could say which is meant."""
    labelsets = {dataset.name: dataset.task.name for dataset in datasets}
    owners: dict[str, str] = {}
    for stage in plan:
        for name in dict.fromkeys(labelsets[dataset] for dataset in stage.datasets if stage.answers):
            if name in owners:
                raise UserError(
                    f"by the strategy {strategy!r} two networks, {owners[name]} and {stage.name}, would answer under {name!r}: "
                    "give each of their datasets a labelset of its own, or choose another strategy"
                )
            owners[name] = stage.name


def toy_size(settings: RunSettings) -> RunSettings:
    """The same run, small enough to show within seconds whether all of it works."""
    few = replace(settings.train, epochs=None, minutes=None, outputs=1000, epoch_outputs=500, batch=min(settings.train.batch, 4))
    return replace(settings, train=few, score=replace(settings.score, scoring="strided"))


def train_stage(
    stage: Stage,
    data: Sequence[Loaded],
    everything: Sequence[Loaded],
    settings: RunSettings,
    folder: Path,
    start: Path | None,
    device: torch.device,
    tracker: Tracker,
) -> tuple[JointNetwork, State]:
    """Trains one network on the stage's datasets; returns it with its best weights.

    Args:
        stage: says how.
        data: its datasets.
        everything: all datasets of the run, which an epoch is counted by.
        settings: of the run.
        folder: of the stage's checkpoints.
        start: the checkpoint that it starts from.
        device: to train on.
        tracker: is told of it.
    """
    space = output_space([d.dataset for d in data])
    kind, domains = kind_of(space.kind), domains_of(data)
    torch.manual_seed(settings.seed)
    network = backbones.build(settings.model, space)
    if stage.context:
        network.add_context(settings.context.form, settings.context.hidden)
    if stage.reversal and not domains:
        print(f"{stage.name}: all pictures are of one domain, {data[0].dataset.domain}: gradient reversal would do nothing and is left out")
    frozen = stage.context and settings.context.trunk == "frozen"
    if stage.reversal and domains and not frozen:
        network.add_discriminator(len(domains), settings.reversal.hidden, settings.reversal.at)
    if start is not None:
        checkpoint.start_from(start, network, features_only=stage.take == "features")
    if frozen:
        network.freeze()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{stage.name}: {network}")
    train = settings.train
    # Of its own for each stage: one that goes on from another would see the other's batches again.
    seed = settings.seed + stage.depth * 2**32
    mixture = kind.mixture(
        data, "train", network, settings, seed, domains=domains, mixing=train.mixing, equilibrium=stage.equilibrium
    )
    if start is None:
        kind.prepare(network, mixture)
    tracker.params({"mixture": mixture.about()})
    strided_pass = sum(kind.outputs_of(d, network) for d in everything)
    tasks = {d.name: d.dataset.task for d in data}

    def validate(network: JointNetwork, quick: bool = False) -> dict[str, Any]:
        if train.overfit:
            return kind.fitted(network, mixture, train.overfit, data, device)
        how, at_most = ScoreSettings("strided"), 1 if quick else train.validation_pictures
        return kind.report({d.name: kind.score(network, d, "val", at_most, how, device) for d in data}, tasks)

    def tell(state: State) -> None:
        print(epoch_line(state), flush=True)
        tracker.metrics(flat_scores("val", state.history[-1]["scores"]), step=state.step)
        loss = state.history[-1]["loss"]
        tracker.metrics({"epoch": state.epoch} | ({} if loss is None else {"train/epoch_loss": loss}), step=state.step)
        if tracker.run_id is not None:
            for d in data:
                for name, picture in kind.drawn(network, d, max(1, VALIDATION_PICTURES // len(data)), device):
                    tracker.image(picture, f"val/{d.name}/{name}", step=state.epoch)

    state = fit(
        network,
        mixture,
        train,
        budget(train, strided_pass, stage.budget),
        folder=folder,
        model=settings.model,
        context=settings.context if stage.context else ContextSettings(),
        reversal=settings.reversal,
        criterion=kind.criterion(data, space, settings),
        started=start is not None,
        validate=validate,
        after_epoch=tell,
        losses=lambda step, values: tracker.metrics({f"train/{name}": value for name, value in values.items()}, step=step),
        title=stage.name,
    )
    if train.overfit and (found := kind.learned(state.history[-1]["scores"])) is not None:
        mend = "give it a larger budget, or look for a mistake in the labels"
        said = found.format(of=f"train.overfit={train.overfit} batches", after=f" after {state.step} steps")
        raise UserError(f"{said}: {mend}")
    return network, state


PROBE_BATCHES = {"train": 40, "val": 15}
"""That a domain probe learns on and is judged by: 41,000 and 15,000 outputs by default."""


def probe_domains(network: JointNetwork, data: Sequence[Loaded], settings: RunSettings) -> dict[str, float]:
    """How well a fresh classifier tells the domains apart by the network's features, and chance, both in percent."""
    kind, domains = kind_of(network.space.kind), [d.dataset.domain for d in data]
    equal = {d.name: 1 / domains.count(d.dataset.domain) for d in data}  # each domain as often as every other
    batches = {}
    for split, number in PROBE_BATCHES.items():
        mixture = kind.mixture(data, split, network, settings, settings.seed, domains=domains_of(data), mixing=equal)
        batches[split] = map(mixture.batch, range(2 if settings.debug else number))
    named = len(set(domains))
    accuracy = evaluation.domain_probe(network, batches["train"], batches["val"], named, settings.reversal.hidden)
    return {"accuracy": accuracy, "chance": 100 / named}


def epoch_line(state: State) -> str:
    """``epoch  3  loss 1.234  all 80.7/58.6/46.2  he 79.5/64.4/54.4 ...  *``: Global/Average/IoU, or mm/px; a star marks the best."""
    epoch = state.history[-1]
    loss = "      " if epoch["loss"] is None else f"{epoch['loss']:.3f}"
    parts = {"all": epoch["scores"]["pooled"], **epoch["scores"]["datasets"]}
    if len(parts) == 2:  # a single dataset: all is the same
        del parts["all"]
    shown = [measure.key for measure in kind_of_scores(epoch["scores"]).measures]
    scored = "  ".join(f"{name} " + "/".join("–" if s[k] is None else f"{s[k]:.1f}" for k in shown) for name, s in parts.items())
    return f"epoch {state.epoch:2d}  loss {loss}  {scored}" + ("  *" if state.best_epoch == state.epoch else "")


def flat_scores(prefix: str, scored: Mapping[str, Any]) -> dict[str, float]:
    """``{"val/kundu/iou": 46.2, "val/pooled/iou": ...}``, without the scores that do not exist."""
    rows = {"pooled": scored["pooled"], **scored["datasets"]}
    keys = [measure.key for measure in kind_of_scores(scored).measures]
    return {f"{prefix}/{name}/{k}": row[k] for name, row in rows.items() for k in keys if row[k] is not None}


def score_all(network: JointNetwork, data: Sequence[Loaded], settings: ScoreSettings, device: torch.device) -> dict[str, np.ndarray]:
    """What the kind's ``score`` finds of every picture of the split of each dataset."""
    kind, total = kind_of(network.space.kind), sum(len(d.dataset.splits[settings.split]) for d in data)
    with tqdm(total=total, desc=f"scoring ({settings.scoring})", unit=" pictures", leave=False, disable=None) as bar:
        return {d.name: kind.score(network, d, settings.split, 0, settings, device, bar.update) for d in data}


# ------------------------------------------------------------------------------------------------------------------------------------
# The folder and the record


def child(tracker: Tracker, stage: str, folder: Path) -> Tracker:
    """The tracker of one stage's network: a new child of the run's, or the one that an earlier attempt began."""
    known = tracked(folder)
    if tracker.run_id is None:
        return Tracker()
    if (run_id := known.get(stage)) is not None:
        return open_tracker("mlflow", "", "", tracker.uri, resume=run_id, parent=tracker.run_id)
    opened = tracker.child(stage)
    write_json(folder / "tracking.json", {**known, stage: opened.run_id})
    return opened


def describe(tracker: Tracker, settings: RunSettings, datasets: Sequence[Dataset], folder: Path, overrides: Sequence[str]) -> None:
    """Tells the tracker what the run is, before it begins."""
    tracker.params({**asdict(settings), "strategy": settings.strategy["name"]})
    tracker.config((folder / "config.yaml").read_text())
    tracker.tags(
        {"strategy": settings.strategy["name"], "model": settings.model["name"], "folder": str(folder), **environment_tags(overrides)}
    )
    for dataset in datasets:
        for split, context in (("train", "training"), ("val", "validation"), ("test", "test")):
            items = dataset.splits[split]
            digest = hashlib.sha256("\n".join(item.key for item in items).encode()).hexdigest()
            tracker.dataset(
                f"{dataset.name}-{split}", dataset.folder, digest, context, {"pictures": len(items), "labelset": dataset.task.name}
            )


def finish(
    folder: Path,
    matrices: Mapping[str, Any],
    about: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, Dataset],
    settings: RunSettings,
    tracker: Tracker,
) -> None:
    """Writes and shows the scores of the run, and ``about`` its networks what each ``training`` came to and how well ``domains`` are told
    apart by the features."""
    tasks, split = {name: dataset.task for name, dataset in datasets.items()}, settings.score.split
    kind = kind_of(next(iter(tasks.values())).kind)
    scored = {"kind": kind.name, **kind.report(matrices, tasks), **kind.way(settings.score), "split": split}
    scored |= {key: told for key, told in about.items() if told}
    keep_scores(folder, matrices, {name: dataset.splits[split] for name, dataset in datasets.items()}, scored, tasks)
    tracker.metrics(flat_scores("test" if split == "test" else "best", scored), step=0)  # val/... are by epoch
    for artifact in ("scores.json", "scores.md", "per_image.npz", "figures"):
        tracker.artifact(folder / artifact)
    print(f"{split} pictures{kind.manner(scored)}")
    print(kind.table(scored))
    for name, probe in about["domains"].items():
        print(f"{name}: a fresh classifier tells {', '.join(probe['names'])} apart in {probe['accuracy']:.1f} % of the features' outputs "
              f"(chance: {probe['chance']:.1f} %)")  # fmt: skip


def keep_scores(
    folder: Path,
    found: Mapping[str, np.ndarray],
    pictures: Mapping[str, Sequence[Item]],
    scored: Mapping[str, Any],
    tasks: Mapping[str, Task],
) -> None:
    """Writes all that is known of an evaluation: the scores as JSON and markdown, what was found of each picture, and its figures.

    ``per_image.npz`` holds for each dataset what its kind keeps: ``<dataset>``, the (N, L, L) confusion matrices of its pictures, or of
    keypoints ``<dataset>/mm`` and ``<dataset>/px``, (N, J) errors; and of each picture its key in ``<dataset>/pictures`` and the name of
    the video that it is a frame of in ``<dataset>/sequences``.
    """
    kind = kind_of(next(iter(tasks.values())).kind)
    arrays = {key: array for name, one in found.items() for key, array in kind.arrays(name, one).items()}
    about = {f"{name}/pictures": [item.key for item in items] for name, items in pictures.items()}
    about |= {f"{name}/sequences": [item.sequence for item in items] for name, items in pictures.items()}
    with atomic_write(folder / "per_image.npz") as temporary:
        np.savez_compressed(temporary, **arrays, **about)  # type: ignore[arg-type]
    write_text(folder / "scores.md", kind.markdown(scored))
    write_json(folder / "scores.json", scored)
    kind.figures(found, tasks, folder / "figures")  # last: what can fail at drawing must not cost the scores
