"""A run: from settings to a folder (:mod:`densemtmd.runs.folder`) with a trained network, its scores, and a record of both."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from densemtmd import backbones, checkpoint, composing, evaluation, parallel
from densemtmd.data import domains_of, load, open_data, output_space
from densemtmd.datasets.augment import check_scale
from densemtmd.datasets.folder import Dataset, Loaded
from densemtmd.datasets.mixing import shares
from densemtmd.datasets.sample import Item
from densemtmd.draw.attempt import drawing
from densemtmd.draw.figures import curves_figure
from densemtmd.draw.labels import strip
from densemtmd.draw.lettering import short, width_of
from densemtmd.errors import UserError
from densemtmd.files import atomic_write, check_writable, read_json, remove_strays, write_json, write_text, yaml_text
from densemtmd.inference import checkpoints_of
from densemtmd.kind import Kind, kind_of, kind_of_scores
from densemtmd.machine import processes
from densemtmd.network import JointNetwork
from densemtmd.origin import MADE, Making, Origin, clocks, making, told
from densemtmd.progress import Progress, duration, followed, say
from densemtmd.runs.folder import (
    EVALUATIONS,
    amend,
    check_is_run,
    config_text,
    found_of,
    new_folder,
    record,
    reopen,
    settings_of,
    tracked,
)  # fmt: skip
from densemtmd.runs.lock import LOCK, held
from densemtmd.settings import ContextSettings, ReversalSettings, RunSettings, ScoreSettings, validate
from densemtmd.strategies import Stage, stages
from densemtmd.tasks import Labelset, OutputSpace, Task
from densemtmd.terminal import columns
from densemtmd.tracking import Tracker, environment_tags, flatten, open_tracker, opener
from densemtmd.training import State, budget, check_workers, fit

QUICK = 2**18
"""Pixels by which is seen, before the first step, whether a validation works."""

VALIDATION_PICTURES = 8
"""About so many validation pictures are kept, labelled, after each epoch; the same ones every time."""


@dataclass(frozen=True)
class Table:
    """The table that a run belongs to."""

    folder: Path
    run_id: str | None      # under which the tracker knows it
    command: Sequence[str]  # that runs all of it, in words


@dataclass(frozen=True)
class Prepared:
    """What a run begins with, all of it checked."""

    settings: RunSettings
    datasets: Sequence[Dataset]
    plan: Sequence[Stage]
    loaded: Mapping[str, Loaded]
    name: str  # of the run in the tracker


def run(settings: RunSettings, overrides: Sequence[str] = ()) -> Path:
    """Trains and scores what the settings say; returns the run's folder.

    Args:
        settings: all of them.
        overrides: those that were asked for, for the record.

    Raises:
        UserError: whatever a person can mend.
    """
    since = clocks()
    prepared = prepare(settings)
    settings = prepared.settings
    folder = new_folder(Path(settings.runs), settings.name or f"{settings.data.name}-{settings.strategy['name']}")
    with begun_or_gone(folder), held(folder / LOCK, folder):
        begin(prepared, folder, since, overrides)
    return folder


def prepare(settings: RunSettings) -> Prepared:
    """Checks settings, and finds, checks and decodes what is trained on.

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
    # MLflow's tables cut long names, and those of one experiment have its data in common.
    name = f"{settings.name or settings.strategy['name']}-{settings.model['name']}-seed{settings.seed}"
    return Prepared(settings, datasets, plan, load(datasets, outline, settings), name)


def begin(
    prepared: Prepared, folder: Path, since: tuple[float, float], overrides: Sequence[str], table: Table | None = None
) -> None:
    """Records a run in its folder and in the tracker, and carries it out.

    Args:
        prepared: what it begins with.
        folder: of the run, which this process holds the lock of.
        since: the :func:`~densemtmd.origin.clocks` when the work on it began.
        overrides: settings that were asked for.
        table: the table that the run belongs to, in which it is called as its folder is.
    """
    settings, datasets = prepared.settings, prepared.datasets
    name, parent = (prepared.name, None) if table is None else (folder.name, table.run_id)
    command = ["densemtmd", "train", *overrides] if table is None else table.command
    with (
        making(folder, command, since) as made,
        open_tracker(settings.tracking, settings.data.name, name, settings.tracking_uri, parent=parent) as tracker,
    ):
        write_json(folder / "tracking.json", {"": tracker.run_id})
        describe(tracker, settings, datasets, folder, overrides)
        record(folder, settings, datasets)  # last: from now on the run goes on when it is resumed
        with parallel.together(help_out, settings, datasets, folder, table):
            carry_out(prepared.plan, prepared.loaded, settings, folder, tracker, made, table)
        if table is None:
            describe_experiment(tracker, settings, datasets, folder, overrides)


@contextmanager
def begun_or_gone(folder: Path) -> Iterator[None]:
    """Removes the folder of a run that ends before it has begun: there is nothing in it that one could resume from."""
    try:
        yield
    except BaseException:
        if not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


MAY_CHANGE = (
    "data_root", "cache", "tracking", "tracking_uri", "train.device", "train.workers", "train.checkpoint_seconds", "train.epochs",
    "train.minutes", "train.outputs", "train.patience", "score",
)  # fmt: skip
"""What may be given anew when a run goes on: where things lie, how long it learns, how it is scored, and not what makes another network."""


def resume(folder: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Goes on with an interrupted run, in its folder and under its id in MLflow; its settings are those in its ``config.yaml``.

    Args:
        folder: of the run.
        overrides: settings that change from now on, of those in :data:`MAY_CHANGE`: ``["data_root=/data", "train.epochs=40"]``. One that is
            finished learns on by a larger budget, and is scored again by another way to score.

    Raises:
        UserError: no run there, one that another process works on, its data are no longer what they were, or a setting that would make
            another network.
    """
    folder = Path(folder)
    check_is_run(folder)
    with held(folder / LOCK, folder):
        go_on(folder, overrides)
    return folder


def go_on(folder: Path, overrides: Sequence[str] = (), table: Table | None = None) -> None:
    """:func:`resume` of a run that this process holds the lock of."""
    since, before = clocks(), settings_of(folder)
    settings = composing.changed(before, overrides) if overrides else before
    new = differences(before, settings)
    check_may_change(folder, before, new)
    _, datasets = reopen(folder, settings.data_root if any(one.startswith("data_root=") for one in overrides) else None)
    try:
        outline = check(settings)
        plan = stages(settings.strategy, [dataset.name for dataset in datasets])
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from None
    remove_strays(folder, apart=EVALUATIONS)
    loaded = load(datasets, outline, settings)
    if new:
        amend_run(folder, settings, datasets, new)
    run_id = tracked(folder).get("")
    unknown = run_id is None and "tracking" in new
    tracking = settings.tracking if run_id or unknown else "none"
    command = ["densemtmd", "train", f"resume={folder}", *overrides] if table is None else table.command
    with (
        making(folder, command, since) as made,
        open_tracker(tracking, settings.data.name, folder.name, settings.tracking_uri, resume=run_id) as tracker,
    ):
        if unknown:
            write_json(folder / "tracking.json", {"": tracker.run_id})
            describe(tracker, settings, datasets, folder, overrides)
        tracker.tags({"resumed": datetime.now().isoformat(" ", "seconds"), **{f"resumed.{key}": value for key, value in new.items()}})
        with parallel.together(help_out, settings, datasets, folder, table):
            carry_out(plan, loaded, settings, folder, tracker, made, table)
        if table is None:
            describe_experiment(tracker, settings, datasets, folder)


def differences(before: RunSettings, now: RunSettings) -> dict[str, Any]:
    """The settings that have changed, by their full names, with their new values."""
    was, new = flatten(asdict(before)), flatten(asdict(now))
    return {key: new.get(key) for key in {**was, **new} if was.get(key) != new.get(key)}


def check_may_change(folder: Path, before: RunSettings, new: Mapping[str, Any]) -> None:
    """Refuses settings that would make another network of a run that has begun.

    Raises:
        UserError: one of them is none of :data:`MAY_CHANGE`.
    """
    was = flatten(asdict(before))
    for key, value in new.items():
        if key not in MAY_CHANGE and key.partition(".")[0] not in MAY_CHANGE:
            raise UserError(
                f"{key}={value} would change the network of {folder}, which was begun with {key}={was.get(key)}: start a new run with it, "
                f"or leave it out; with resume= go {', '.join(MAY_CHANGE)}"
            )


def amend_run(folder: Path, settings: RunSettings, datasets: Sequence[Dataset], new: Mapping[str, Any]) -> None:
    """Records what changes when a run goes on. Scores of a smaller budget, or in another way, are not its own any more."""
    budgets = {key: value for key, value in new.items() if key.startswith("train.") and key not in NO_RECIPE}
    if budgets or any(key.startswith("score.") for key in new):
        (folder / "scores.json").unlink(missing_ok=True)
    if budgets:  # no other row of a table would learn the same
        for file in folder.rglob("recipe.json"):
            write_json(file, {**read_json(file), "resumed": budgets})
    amend(folder, settings, datasets)


def help_out(settings: RunSettings, datasets: Sequence[Dataset], folder: Path, table: Table | None) -> None:
    """What another process of ``torchrun`` than the first does of a run: the same, but that it writes nothing."""
    plan = stages(settings.strategy, [dataset.name for dataset in datasets])
    carry_out(plan, load(datasets, check(settings), settings), settings, folder, Tracker(), None, table)


def carry_out(
    plan: Sequence[Stage],
    loaded: Mapping[str, Loaded],
    settings: RunSettings,
    folder: Path,
    tracker: Tracker,
    made: Making | None,
    table: Table | None = None,
) -> None:
    """Trains the stages one after the other and scores what they learned; what an earlier attempt has finished is not trained again.

    Of several processes each does so, and the first one, which alone knows how the run is ``made``, keeps what comes of it.
    """
    used = clocks()[1]
    device = checkpoint.device_of(settings.train.device)
    counts = ", ".join(f"{name} {d.counts}" for name, d in loaded.items())
    say(f"{folder}: {settings.strategy['name']} on {counts} (pictures to train/validate/test)")
    if settings.train.minutes is not None and any(d.dataset.splits[settings.score.split] for d in loaded.values()):
        helpers = parallel.size()
        with parallel.alone() as first:
            if first:
                say(time_of_scoring(plan, loaded, settings, device, helpers))
    several = sum(stage.answers for stage in plan) > 1  # networks that answer, each for its datasets
    homes = {stage.name: folder / stage.name if several or not stage.answers else folder for stage in plan}
    matrices: dict[str, Any] = {}
    domains: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    training: dict[str, dict[str, Any]] = {}
    drawn: list[Image] = []
    for stage in plan:
        data = [loaded[name] for name in stage.datasets]
        home = homes[stage.name]
        start = None if stage.start is None else homes[stage.start] / "best.safetensors"
        recipes[stage.name] = recipe(stage, data, loaded, settings, recipes.get(stage.start or ""))
        if table is not None:
            parallel.of_first(take_over, recipes[stage.name], home, table.folder)
        with nullcontext(tracker) if home == folder else child(tracker, stage.name, folder) as log:
            network, state = train_stage(stage, data, list(loaded.values()), settings, home, start, device, log)
            with parallel.alone() as first:
                pictures = show_answers(network, data, "pictures", state.step, device, log)
                if first:
                    with drawing(curves := home / "figures" / "curves.png"):
                        curves_figure(state.history, curves)
            training[stage.name] = trained(stage, state, data, list(loaded.values()), network, settings)
            if stage.answers:
                found = score_all(network, data, settings.score, device)
                matrices |= found
                drawn += pictures
                if log is not tracker:
                    log.params(chosen(settings))
                    scored = kind_of(network.space.kind).report(found, {d.name: d.dataset.task for d in data})
                    log.metrics(final_scores(scored, settings.score.split), step=0)
                    log.describe(in_short(scored, settings.score.split), strip(pictures))
                if settings.score.probe and (named := domains_of(data)):
                    domains[stage.name] = {"names": named, **parallel.of_first(probe_domains, network, data, settings)}
                    log.metrics({"test/domain accuracy": domains[stage.name]["accuracy"]}, step=0)
    about = {"training": training, "domains": domains}
    helped = parallel.sums([0.0 if made else clocks()[1] - used])[0]
    with parallel.alone():
        if made is not None:
            made.helped = helped
            scored = finish(folder, matrices, about, {name: d.dataset for name, d in loaded.items()}, settings, tracker, made)
            tracker.describe(in_short(scored, settings.score.split), strip(drawn))


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


NO_RECIPE = ("train.device", "train.workers", "train.checkpoint_seconds")
"""What a stage's weights do not depend on."""


def recipe(
    stage: Stage, data: Sequence[Loaded], everything: Mapping[str, Loaded], settings: RunSettings, start: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All that a stage's weights depend on, as plain JSON: two stages of one recipe learn the same."""

    def pictures(d: Loaded) -> str:
        config, keys = d.dataset.config, [[item.key for item in d.dataset.splits[split]] for split in ("train", "val")]
        meaning = [d.dataset.task.to_json(), repr(config.codes), repr(config.derive and config.derive.ids)]
        return hashlib.sha256(json.dumps([str(d.dataset.folder.absolute()), meaning, keys]).encode()).hexdigest()

    train = {k: v for k, v in asdict(settings.train).items() if f"train.{k}" not in NO_RECIPE}
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
            say(f"{home.name}: the same as {file.parent.relative_to(table)}, which is trained already")
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
    train = settings.train
    check_scale(train.scale)
    if outline.trunk is not None and (train.flip or train.scale != [1, 1] or train.colour or train.blur):
        raise UserError(
            f"train.flip is {str(train.flip).lower()}, train.scale {train.scale}, train.colour {train.colour} and train.blur {train.blur}, "
            f"but model={settings.model['name']} learns from features of pictures as they are: use train.flip=false and leave out the "
            "others, as protocol=frozen does, or choose a network that learns from crops, such as model=patchnet"
        )
    check_workers(settings.train.workers)
    check_batch(outline, settings)
    kind_of(outline.takes).check_way(settings.score)
    opener(settings.tracking)
    if settings.name and Path(settings.name).name != settings.name:
        raise UserError(f"name is {settings.name!r}, expected one without {os.sep}: it becomes the name of a folder below {settings.runs}")
    check_processes(checkpoint.device_of(settings.train.device), settings)
    return outline


def check_processes(device: torch.device, settings: RunSettings) -> None:
    """Refuses what the processes of ``torchrun`` cannot share."""
    number, train = processes(), settings.train
    if number == 1:
        return
    least = min(map(len, torch.empty(train.batch, device="meta").chunk(train.accumulate)))
    if least < number:
        parts = f" in train.accumulate={train.accumulate} parts" if train.accumulate > 1 else ""
        raise UserError(
            f"train.batch={train.batch}{parts} shows the network {least} crops at a time, too few for each of the {number} processes of "
            "torchrun to have one: use a larger train.batch, or fewer processes"
        )
    if device.type == "cuda":
        on_machine, there = int(os.environ.get("LOCAL_WORLD_SIZE", number)), torch.cuda.device_count()
        if device.index is not None:
            raise UserError(f"train.device is {train.device}, which {number} processes cannot share: use auto, which gives each its own")
        if on_machine > there:
            raise UserError(f"torchrun started {on_machine} processes on a machine of {there} GPUs: use --nproc-per-node {there}")


def check_batch(outline: JointNetwork, settings: RunSettings) -> None:
    """Refuses batches from which batch norms cannot learn: of a single crop, where that leaves them one number of each channel.

    Args:
        outline: the network on the device ``meta``, which says so without computing anything.
        settings: of the run.
    """
    train = settings.train
    of_all = min(map(len, torch.empty(train.batch, device="meta").chunk(train.accumulate)))  # as Batch.parts
    if of_all // (1 if train.sync_norms else processes()) > 1:
        return
    network = copy.deepcopy(outline)
    if any(isinstance(stage, Mapping) and stage.get("context") for stage in settings.strategy.get("stages", ())):
        network.add_context(settings.context.form, settings.context.hidden)
    try:
        with torch.device("meta"):
            network.to("meta").train()(torch.empty(1, *kind_of(outline.takes).shown(network, train.crop)))
    except ValueError as error:  # of torch's batch norms, before they compute
        if "more than 1 value per channel" not in str(error):
            raise
        parts = f" in train.accumulate={train.accumulate} parts" if train.accumulate > 1 else ""
        raise UserError(
            f"train.batch={train.batch}{parts} shows the network a single crop of train.crop={train.crop} at a time, of which its batch "
            f"norms see one number and can learn nothing: use train.batch={2 * train.accumulate} or more"
        ) from None


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
    last, first = folder / "last.safetensors", parallel.rank() == 0
    begun = parallel.of_first(last.exists)
    # A checkpoint has all weights, and the file of the pretrained ones may be gone by now.
    network = backbones.build(settings.model, space, pretrained=first and start is None and not begun)
    if stage.context:
        network.add_context(settings.context.form, settings.context.hidden)
    if stage.reversal and not domains:
        say(f"{stage.name}: all pictures are of one domain, {data[0].dataset.domain}: gradient reversal would do nothing and is left out")
    frozen = stage.context and settings.context.trunk == "frozen"
    if stage.reversal and domains and not frozen:
        network.add_discriminator(len(domains), settings.reversal.hidden, settings.reversal.at)
    if begun and first:
        checkpoint.restore(last, network)
    elif start is not None and first:
        checkpoint.start_from(start, network, features_only=stage.take == "features")
    if frozen:
        network.freeze()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel.same(network)
    network.pretrained = parallel.of_first(lambda: network.pretrained)
    say(f"{stage.name}: {network}")
    train = settings.train
    # Of its own for each stage: one that goes on from another would see the other's batches again.
    seed = settings.seed + stage.depth * 2**32
    mixture = kind.mixture(
        data, "train", network, settings, seed, domains=domains, mixing=train.mixing, equilibrium=stage.equilibrium
    )
    if start is None and not begun:
        kind.prepare(network, mixture)
    tracker.text(yaml_text(mixture.about()), "mixture.yaml")
    strided_pass = sum(kind.outputs_of(d, network) for d in everything)
    tasks = {d.name: d.dataset.task for d in data}

    def validate(network: JointNetwork, quick: bool = False) -> dict[str, Any]:
        if train.overfit:
            return kind.fitted(network, mixture, train.overfit, data, device)
        how, at_most, pixels = ScoreSettings("strided", split="val"), train.validation_pictures, train.validation_pixels
        if quick:
            at_most, pixels = 1, QUICK
        return kind.report(score_all(network, data, how, device, "validating", at_most, pixels), tasks)

    told = False

    def tell(state: State) -> None:
        nonlocal told
        head, line = epoch_lines(state)
        say(line if told else f"{head}\n{line}")
        told = True
        tracker.metrics(flat_scores("val/", state.history[-1]["scores"]), step=state.step)
        if (loss := state.history[-1]["loss"]) is not None:
            tracker.metrics({"train/epoch_loss": loss}, step=state.step)
        show_answers(network, data, "val", state.step, device, tracker)

    if not begun:
        with parallel.alone():
            show_answers(network, data, "val", 0, device, tracker)
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
        title=f"training {stage.name}",
    )
    if train.overfit and (found := kind.learned(state.history[-1]["scores"])) is not None:
        mend = "give it a larger budget, or look for a mistake in the labels"
        said = found.format(of=f"train.overfit={train.overfit} batches", after=f" after {state.step} steps")
        raise UserError(f"{said}: {mend}")
    return network, state


def show_answers(
    network: JointNetwork, data: Sequence[Loaded], key: str, step: int, device: torch.device, tracker: Tracker
) -> list[Image]:
    """Gives the tracker some validation pictures, labelled: ``key/<dataset>/<picture>``; returns them, one of each dataset first."""
    if tracker.run_id is None:
        return []
    kind, shown = kind_of(network.space.kind), []
    for d in data:
        with drawing(f"validation pictures of {d.name}"):
            for n, (name, picture) in enumerate(kind.drawn(network, d, max(1, VALIDATION_PICTURES // len(data)), device)):
                tracker.image(picture, f"{key}/{d.name}/{name}", step=step)
                shown.append((n, picture))
    return [picture for _, picture in sorted(shown, key=itemgetter(0))]


PROBE_BATCHES = {"train": 40, "val": 15}
"""That a domain probe learns on and is judged by: 41,000 and 15,000 outputs by default."""


def probe_domains(network: JointNetwork, data: Sequence[Loaded], settings: RunSettings) -> dict[str, float]:
    """How well a fresh classifier tells the domains apart by the network's features, and chance, both in percent."""
    kind, domains = kind_of(network.space.kind), [d.dataset.domain for d in data]
    equal = {d.name: 1 / domains.count(d.dataset.domain) for d in data}  # each domain as often as every other
    batches = {}
    for split, number in PROBE_BATCHES.items():
        mixture = kind.mixture(data, split, network, settings, settings.seed, domains=domains_of(data), mixing=equal)
        numbers = range(2 if settings.debug else number)
        batches[split] = followed(map(mixture.batch, numbers), "seeing how far domains can be told apart", len(numbers), "batches")
    named = len(set(domains))
    accuracy = evaluation.domain_probe(network, batches["train"], batches["val"], named, settings.reversal.hidden)
    return {"accuracy": accuracy, "chance": 100 / named}


def epoch_lines(state: State, width: int | None = None) -> tuple[str, str]:
    """The head of a table of epochs, and the line of the latest; a star marks the best.

    The chief measure of all datasets together, then of each, of as many as a terminal is wide, then the other measures of all together.

    >>> one = {"iou": 46.2, "global": 80.7, "average": 58.6}
    >>> scored = {"pooled": one, "datasets": {"he": one, "ladicky": {**one, "iou": None}}}
    >>> state = State(best_epoch=3, history=[{"epoch": 3, "loss": 1.234, "scores": scored}])
    >>> print(*epoch_lines(state, 80), sep=chr(10))
    epoch    loss    IoU     he  ladicky  Global  Average
        3   1.234   46.2   46.2        –    80.7     58.6  *
    """
    epoch, width = state.history[-1], width or columns()
    kind, rows = kind_of_scores(epoch["scores"]), epoch["scores"]["datasets"]
    whole = epoch["scores"]["pooled"] if len(rows) > 1 else next(iter(rows.values()))
    cells = [("epoch", str(epoch["epoch"])), ("loss", "" if epoch["loss"] is None else f"{epoch['loss']:.3f}")]
    cells += [(kind.chief.name, shown(whole[kind.chief.key]))]
    cells += [(short(name, 16), shown(row[kind.chief.key])) for name, row in rows.items()] if len(rows) > 1 else []
    cells += [(measure.name, shown(whole[measure.key])) for measure in kind.measures if measure != kind.chief]
    head, line = "", ""
    for n, (name, value) in enumerate(cells):
        wide = max(width_of(name), 6 if n == 1 else 5)
        left = len(cells) - n - len(kind.measures) + 1  # datasets that have no place yet
        more = f"  {left} more" if left > 0 else ""
        if n and width_of(head) + 2 + wide + len(more) * (left > 1) + len("  *") > width:
            head += more
            line = line.ljust(width_of(head))
            break
        head += "  " * (n > 0) + " " * (wide - width_of(name)) + name
        line += "  " * (n > 0) + value.rjust(wide)
    return head, (line + ("  *" if state.best_epoch == epoch["epoch"] else "")).rstrip()


def shown(value: float | None) -> str:
    """``80.7``, or a dash for a score that there is not."""
    return "–" if value is None else f"{value:.1f}"


def flat_scores(prefix: str, scored: Mapping[str, Any]) -> dict[str, float]:
    """``{"val/IoU/all": 46.2, "val/IoU/kundu": ...}``, without the scores that do not exist; of one dataset there is no ``all``."""
    rows = scored["datasets"] if len(scored["datasets"]) == 1 else {"all": scored["pooled"], **scored["datasets"]}
    measures = kind_of_scores(scored).measures
    return {f"{prefix}{m.name}/{name}": row[m.key] for m in measures for name, row in rows.items() if row[m.key] is not None}


def final_scores(scored: Mapping[str, Any], split: str) -> dict[str, float]:
    """The scores that a run is compared by: ``{"IoU/all": 46.2, "IoU/kundu": ..., "test/Global/all": ...}``.

    MLflow's pages sort names, the capitals first, and begin with the first ones: that is the chief measure's. On validation pictures it is
    called ``IoU of val``, so that nobody compares the two.
    """
    chief, where, others = kind_of_scores(scored).chief.name, *(("", "test/") if split == "test" else (" of val", "best/"))
    flat = flat_scores("", scored).items()
    names = {name: f"{chief}{where}{name[len(chief):]}" if name.startswith(f"{chief}/") else f"{others}{name}" for name, _ in flat}
    return {names[name]: round(value, 2) for name, value in flat}  # all digits are in scores.json


def in_short(scored: Mapping[str, Any], split: str) -> str:
    """``IoU on the test pictures: **all 46.2**, kundu 41.0, ...``"""
    measure = kind_of_scores(scored).chief
    rows = {name.rpartition("/")[2]: value for name, value in flat_scores("", scored).items() if name.startswith(f"{measure.name}/")}
    if not rows:
        return f"No {split} pictures, so no scores."
    first, *others = (f"{name} {value:.1f}" for name, value in rows.items())
    return f"{measure.name} on the {split} pictures: {', '.join([f'**{first}**', *others])}"


def score_all(
    network: JointNetwork, data: Sequence[Loaded], how: ScoreSettings, device: torch.device,
    title: str = "", at_most: int = 0, most_pixels: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What the kind's ``score`` finds of each dataset's pictures of a split: of all, or of at most so many and so many pixels of each."""
    kind, counts = kind_of(network.space.kind), [len(d.dataset.splits[how.split]) for d in data]
    with Progress(title or f"scoring ({how.scoring})", sum(min(count, at_most or count) for count in counts)) as progress:
        with progress.paused():
            for d in data if not how.copies else ():
                kind.before_scoring(network, d, how.split, at_most)
        tick = lambda count: progress.tick(count * parallel.size())  # noqa: E731
        return {d.name: kind.score(network, d, how.split, at_most, how, device, tick, most_pixels=most_pixels) for d in data}


def time_of_scoring(
    plan: Sequence[Stage], loaded: Mapping[str, Loaded], settings: RunSettings, device: torch.device, helpers: int = 1
) -> str:
    """A sentence on how long scoring will take, which does not count among the minutes of a training, and on how it takes less.

    Measured on one picture, for which a network that has not learned takes as long, and scaled by what is asked of all of them, which so
    many processes share.
    """
    how, counts = settings.score, {name: len(d.dataset.splits[settings.score.split]) for name, d in loaded.items()}
    measured = loaded[max(counts, key=lambda name: counts[name])]
    stage = next(stage for stage in plan if measured.name in stage.datasets)
    network = backbones.build(settings.model, output_space([loaded[name].dataset for name in stage.datasets])).to(device)
    kind = kind_of(network.space.kind)
    kept = network.trunk is not None  # whose features are there for a second time
    one = kind.asked_of(measured, how.split, 1)
    asked = sum(kind.asked_of(d, how.split) for d in loaded.values()) / (one if kept else min(one, QUICK))

    def seconds(how: ScoreSettings) -> float:
        began = perf_counter()
        kind.score(network, measured, how.split, 1, how, device, most_pixels=QUICK)
        return asked * (perf_counter() - began) / helpers

    first = seconds(how)
    takes = first if kept else min(first, seconds(how))  # what is done for the first time takes longer
    strided = math.inf if kept or how.scoring == "strided" or how.copies else seconds(replace(how, scoring="strided"))
    shorter = f"; with score.scoring=strided about {duration(strided)}" if strided < takes / 2 else ""
    return f"after the training, scoring {sum(counts.values())} {how.split} pictures will take about {duration(takes)}{shorter}"


# ------------------------------------------------------------------------------------------------------------------------------------
# The folder and the record


def child(tracker: Tracker, stage: str, folder: Path) -> Tracker:
    """The tracker of one stage's network: a new child of the run's, or the one that an earlier attempt began."""
    if tracker.run_id is None:
        return Tracker()
    known = tracked(folder)
    if (run_id := known.get(stage)) is not None:
        return tracker.child(stage, resume=run_id)
    opened = tracker.child(stage)
    write_json(folder / "tracking.json", {**known, stage: opened.run_id})
    return opened


def chosen(settings: RunSettings, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What somebody chose: data, model, strategy, seed, and every setting that a choice or an override made another than its default.

    By these a person tells runs apart, so that there must be few; all settings are in ``config.yaml``.

    >>> from densemtmd.settings import TrainSettings
    >>> some = RunSettings(model={"name": "fpn", "encoder": "b0"}, strategy={"name": "jt"}, train=TrainSettings(lr=0.01))
    >>> chosen(some, ["model=fpn", "model.encoder=b0", "data_root=elsewhere"])
    {'data': 'own', 'model': 'fpn', 'strategy': 'jt', 'seed': 0, 'train.lr': 0.01, 'model.encoder': 'b0'}
    """
    named = {"data": settings.data.name, "model": settings.model["name"], "strategy": settings.strategy["name"], "seed": settings.seed}
    groups = [field for field in fields(RunSettings) if is_dataclass(getattr(settings, field.name)) and field.name != "data"]
    other = {
        f"{group.name}.{one.name}": value
        for group in groups
        for one in fields(getattr(settings, group.name))
        if (value := getattr(getattr(settings, group.name), one.name)) != getattr(group.default_factory(), one.name)  # type: ignore[operator]
    }
    flat = flatten(asdict(settings))
    asked = [override.partition("=")[0] for override in overrides]
    return named | other | {key: flat[key] for key in asked if key.partition(".")[0] in ("data", "model", "strategy") and key in flat}


def describe_experiment(
    tracker: Tracker, settings: RunSettings, datasets: Sequence[Dataset], folder: Path, overrides: Sequence[str] = ()
) -> None:
    """Tells the tracker what the runs on these data have in common, by which scores they are compared, and how to repeat this one."""
    if tracker.run_id is None:
        return
    counts = "\n".join(
        f"| {d.name} | {', '.join(d.task.channel_names)} | {' / '.join(str(len(d.splits[split])) for split in ('train', 'val', 'test'))} |"
        for d in datasets
    )
    again = overrides or [f"{key}={value}" for key, value in chosen(settings).items()]
    about = (
        f"Networks trained on `data={settings.data.name}`, each dataset in its own labelset.\n\n"
        f"| dataset | labels | pictures to train / validate / test |\n| --- | --- | --- |\n{counts}\n\n"
        f"The latest of the runs again: `{shlex.join(['densemtmd', 'train', *again])}`"
    )
    kind = kind_of(datasets[0].task.kind)
    tracker.experiment(about, score_names(kind, [d.name for d in datasets], settings.score.split), kind.chief.less_is_better)
    say(f"the record: {tracker.viewer}")


def score_names(kind: Kind, datasets: Sequence[str], split: str) -> list[str]:
    """What :func:`final_scores` calls the scores by the chief measure, that of all datasets first."""
    chief = kind.chief.name if split == "test" else f"{kind.chief.name} of {split}"
    return [f"{chief}/{name}" for name in (("all", *datasets) if len(datasets) > 1 else datasets)]


def describe(tracker: Tracker, settings: RunSettings, datasets: Sequence[Dataset], folder: Path, overrides: Sequence[str]) -> None:
    """Tells the tracker what the run is, before it begins."""
    tracker.params(chosen(settings, overrides))
    # MLflow's pages that compare runs begin with what was recorded first.
    names = score_names(kind_of(datasets[0].task.kind), [d.name for d in datasets], settings.score.split)
    tracker.metrics(dict.fromkeys(names, math.nan), step=0)
    tracker.text(config_text(settings, found_of(datasets)), "config.yaml")
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
    made: Making,
) -> dict[str, Any]:
    """Writes, shows and returns the scores of the run, and ``about`` its networks what each ``training`` came to and how well ``domains``
    are told apart by the features."""
    tasks, split = {name: dataset.task for name, dataset in datasets.items()}, settings.score.split
    kind = kind_of(next(iter(tasks.values())).kind)
    scored = {"kind": kind.name, **kind.report(matrices, tasks), **kind.way(settings.score), "split": split}
    scored |= {key: told for key, told in about.items() if told}
    keep_scores(folder, matrices, {name: dataset.splits[split] for name, dataset in datasets.items()}, scored, tasks, made.now())
    tracker.metrics(final_scores(scored, split), step=0)
    for artifact in ("scores.json", "scores.md", "per_image.npz", MADE, "figures"):
        tracker.artifact(folder / artifact)
    if kind.task is Labelset:
        weights = {file.relative_to(folder).as_posix(): file for file in checkpoints_of(folder)}
        tracker.network(folder.name, weights, {task.name: task.channel_names for task in tasks.values()}, settings.register)
    say(f"{split} pictures{kind.manner(scored)}")
    print(kind.table(scored))
    for name, probe in about["domains"].items():
        say(f"{name}: a fresh classifier tells {', '.join(probe['names'])} apart in {probe['accuracy']:.1f} % of the features' outputs "
            f"(chance: {probe['chance']:.1f} %)")  # fmt: skip
    return scored


def keep_scores(
    folder: Path,
    found: Mapping[str, np.ndarray],
    pictures: Mapping[str, Sequence[Item]],
    scored: Mapping[str, Any],
    tasks: Mapping[str, Task],
    made: Sequence[Origin],
) -> None:
    """Writes all that is known of an evaluation: the scores as JSON and markdown, with how they were made, what was found of each picture,
    and its figures.

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
    write_text(folder / "scores.md", f"{kind.markdown(scored).rstrip()}\n\n{told(made)}\n")
    write_json(folder / "scores.json", scored)
    with drawing(folder / "figures"):  # last: what fails at drawing must not cost the scores
        kind.figures(found, tasks, folder / "figures")
