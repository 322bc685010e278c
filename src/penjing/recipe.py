"""A recipe: a short TOML file with ordered stages, each a table; what a stage makes lies in a folder of its name.

    description = "A bilingual chat model from nothing"

    [corpus]            # a stage: its name, then its settings
    kind = "world"      # what it does; needed only where the name is not itself a kind
    documents = 30_000

    [tokenizer]
    vocab = 2048

`penjing run RECIPE --set tokenizer.vocab=4096` changes a setting. A stage whose settings, inputs and data are as before
is reused; one that was interrupted resumes; one that changed is made anew, and so is all that follows it. What
was there before is moved aside, never deleted. Files that settings name count as data.
"""

import hashlib
import json
import os
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console

from penjing import __version__
from penjing.data import places
from penjing.data.corpus import is_dataset
from penjing.errors import ConfigError, DataError, PenjingError, nearest
from penjing.files import read_json, tidy, write_json
from penjing.settings import ParallelTable, RecordedCurve, Settings, read_table
from penjing.training.lock import only_run_in

if TYPE_CHECKING:
    from penjing.training.crew import Crew

_RECORD = "stage.json"
_SEEDS = 2**63


class Stage(Settings, ABC):
    """What every kind of stage has: `run` makes the stage's folder from what the stages before it made."""

    together: ClassVar[bool] = False
    """Whether, of several processes, all run the stage; else the first one does, and the others wait."""

    @abstractmethod
    def run(self, workshop: "Workshop") -> dict[str, Any]:
        """Does the work in `workshop.folder`; returns what the report should know (JSON-able)."""

    def check(self) -> None:
        """Looks whether the settings fit together, which is done for all stages before the first one runs.

        Raises:
            PenjingError: they do not.
        """

    def named_files(self) -> Sequence[str]:
        """The files and folders that settings name; when one changes, the stage is made anew."""
        return ()

    def named_models(self) -> Sequence[str]:
        """The models that settings name: stages before this one that make one, or models' folders."""
        return ()

    def depends_on(self, workshop: "Workshop") -> Any:
        """What else the result depends on, such as another stage's settings (JSON-able); None for nothing."""
        return None


class Interrupted(Exception):
    """Someone stopped a stage; what it has done is saved, and the same command goes on."""


@dataclass
class Workshop:
    """What a stage works with."""

    folder: Path
    """The stage's own folder."""
    root: Path
    """The run's folder; stages before lie in it under their names."""
    recipe: "Recipe"
    data: str | None
    """The user's own text, if the run was given one: a file, folder, pattern or address, or `hf:NAME`."""
    output: Console
    results: dict[str, dict[str, Any]]
    """What the stages before returned, by name."""
    crew: "Crew | None" = None
    """The processes that run the recipe together; None for this one alone."""

    def made_by(self, kind: type[Stage]) -> Path:
        """The folder of the latest stage of a kind before this one.

        Raises:
            ConfigError: there is none.
        """
        found = self.find(kind)
        if found is None:
            raise ConfigError(
                f"recipe '{self.recipe.name}': stage [{self.folder.name}] needs a stage of kind "
                f"'{kind_name(kind)}' before it"
            )
        return found

    def model(self, named: str | None, kind: type[Stage]) -> Path:
        """The folder of the model that a setting names: a stage before this one, or a path; None: `made_by(kind)`'s.

        Raises:
            ConfigError: none is named, and no stage before is of that kind.
        """
        if named is None:
            return self.made_by(kind) / "model"
        return self.root / named / "model" if named in self.recipe.before(self.folder.name) else Path(named)

    def find(self, kind: type[Stage]) -> Path | None:
        """As `made_by`, or None where there is none."""
        made = [name for name in self.recipe.before(self.folder.name) if isinstance(self.recipe.stages[name], kind)]
        return self.root / made[-1] if made else None


def kind_name(kind: type[Stage]) -> str:
    """The word that names a kind of stage in a recipe: its class's name in lower case, without "Stage"."""
    return kind.__name__.removesuffix("Stage").lower()


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been read and checked."""

    name: str
    stages: Mapping[str, Stage]
    description: str = ""
    seed: int = 1
    needs_data: bool = False
    """Whether the recipe has no text of its own, so that `--data` must be given."""
    curve: RecordedCurve | None = None
    """What the report compares the validation curve with: the recipe's [curve]."""
    parallel: ParallelTable = field(default_factory=ParallelTable)
    """How training is divided among processes: the recipe's [parallel]."""

    @classmethod
    def read(cls, name: str, kinds: Mapping[str, type[Stage]], overrides: Sequence[str] = ()) -> "Recipe":
        """The recipe of that name (one that ships with Penjing) or path, with `stage.key=value` overrides applied.

        Raises:
            ConfigError: it does not exist, is not TOML, or has a key that is unknown or a value that cannot be.
        """
        path = find_recipe(name)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise ConfigError(f"{path}: not valid TOML: {fault}") from None
        except OSError as fault:
            raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
        for override in overrides:
            _override(table, override)
        head = {key: value for key, value in table.items() if not isinstance(value, dict)}
        known = ("description", "seed", "data")
        for key in head:
            if key not in known:
                raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, known)}")
        if head.get("data", "required") != "required":
            raise ConfigError(f'{path}: data = {head["data"]!r}; the only value is "required"')
        seed = head.get("seed", 1)
        if type(seed) is not int or not 0 <= seed < _SEEDS:
            raise ConfigError(f"{path}: seed = {seed!r} is not a whole number from 0 to {_SEEDS - 1}")
        tables = {key: value for key, value in table.items() if isinstance(value, dict)}
        recorded = tables.pop("curve", None)
        curve = None if recorded is None else read_table(path, "curve", recorded, RecordedCurve)
        parallel = read_table(path, "parallel", tables.pop("parallel", {}), ParallelTable)
        stages = {key: _stage(path, key, value, kinds) for key, value in tables.items()}
        if not stages:
            raise ConfigError(f"{path}: has no stage; a stage is a table such as [tokenizer]")
        return cls(path.stem, stages, str(head.get("description", "")), seed, "data" in head, curve, parallel)

    def before(self, name: str) -> list[str]:
        """The stages before one, in order."""
        return list(takewhile(lambda other: other != name, self.stages))


def recipe_folder() -> Path:
    """Where the recipes that ship with Penjing lie: beside the package when installed, else in the checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def find_recipe(name: str) -> Path:
    """The path of a recipe given by path, or by the name of one that ships with Penjing.

    Raises:
        ConfigError: there is no such recipe; it names those there are.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    shipped = {file.stem: file for file in recipe_folder().glob("*.toml")}
    if name in shipped:
        return shipped[name]
    if path.suffix == ".toml":
        raise ConfigError(f"there is no recipe file {path}")
    raise ConfigError(f"there is no recipe '{name}'{nearest(name, shipped)}")


def _override(table: dict[str, Any], text: str) -> None:
    """Applies `stage.key=value` or `seed=value`; the value is TOML, or else plain text."""
    target, separator, value = text.partition("=")
    if not separator or not target.strip():
        raise ConfigError(f"--set {text}: write it as stage.key=value, for example --set pretrain.minutes=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    *path, key = target.strip().split(".")
    place = table
    for depth, part in enumerate(path):
        if depth == 0 and part not in table and part != "parallel":  # which every recipe may have
            stages = [name for name, entry in table.items() if isinstance(entry, dict)]
            raise ConfigError(f"--set {text}: the recipe has no stage '{part}'{nearest(part, stages)}")
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {text}: '{part}' is a value, not a table")
    place[key] = parsed


def _stage(path: Path, name: str, table: dict[str, Any], kinds: Mapping[str, type[Stage]]) -> Stage:
    settings = dict(table)
    kind = settings.pop("kind", name)
    if kind not in kinds:
        raise ConfigError(f"{path}, [{name}]: unknown kind of stage '{kind}'{nearest(str(kind), kinds)}")
    return read_table(path, name, settings, kinds[kind])


def run_stages(
    recipe: Recipe, out: Path, data: str | None, output: Console, crew: "Crew | None" = None
) -> dict[str, dict[str, Any]]:
    """Runs a recipe's stages in order into `out`, reusing finished ones; returns each stage's result.

    Of several processes each calls it; the first one alone writes, apart from what training itself writes.

    Raises:
        ConfigError, DataError: the recipe needs text and none was given, a stage's settings do not fit, a file that
            they name is missing, or `out` cannot be used.
        TrainingError: another run is writing into `out`.
    """
    _check(recipe, out, data)
    results: dict[str, dict[str, Any]] = {}
    fingerprint = _digest([recipe.seed, _identity(data)])
    first = crew is None or crew.first
    if first:
        with _usable(out):
            out.mkdir(parents=True, exist_ok=True)
    with only_run_in(out) if first else nullcontext():
        for number, (name, stage) in enumerate(recipe.stages.items(), 1):
            workshop = Workshop(out / name, out, recipe, data, output, results, crew)
            fingerprint = _digest([fingerprint, *_nature(name, stage, workshop)])
            record: dict[str, Any] = {}
            if first:
                with _usable(out):
                    record = _begin(workshop, fingerprint, f"[bold]{number}/{len(recipe.stages)} {name}[/bold]")
            record = crew.told(record) if crew else record
            if record.get("finished"):
                results[name] = record["result"]
                continue
            result: dict[str, Any] = {}
            if first:
                result = _work(stage, workshop, fingerprint, record.get("seconds", 0.0))
            elif stage.together:
                stage.run(workshop)
            results[name] = crew.told(result) if crew else result
    return results


def digest_of(recipe: Recipe, data: str | None) -> str:
    """What tells a recipe from any other; of several processes, all must have the same."""
    stages = [[name, type(stage).__name__, stage.model_dump(mode="json")] for name, stage in recipe.stages.items()]
    return _digest([recipe.seed, recipe.parallel.model_dump(), stages, data, __version__])


def _check(recipe: Recipe, out: Path, data: str | None) -> None:
    """Refuses what cannot work before anything is done."""
    if recipe.needs_data and data is None:
        raise DataError(f"the recipe '{recipe.name}' trains on your own text: add --data FILE-OR-FOLDER")
    if data is not None and not is_dataset(data) and not places.is_there(data):
        raise DataError(f"there is no file or folder {data}")
    for name, stage in recipe.stages.items():
        try:
            stage.check()
        except PenjingError as fault:
            raise ConfigError(f"recipe '{recipe.name}', [{name}]: {fault}") from None
        before = recipe.before(name)
        models = [model for model in stage.named_models() if model not in before]
        for file in (*stage.named_files(), *models):
            made_by_this_run = Path(file).absolute().is_relative_to(out.absolute())
            if not made_by_this_run and not is_dataset(file) and not places.is_there(file):
                stages = f", nor a stage before it of this name{nearest(file, before)}" if file in models else ""
                raise DataError(f"recipe '{recipe.name}', [{name}]: there is no file or folder {file}{stages}")
    if os.path.exists(out) and not os.path.isdir(out):
        raise ConfigError(f"{out} is a file; --out names a folder, which is made when there is none")


@contextmanager
def _usable(out: Path) -> Iterator[None]:
    """What the system refuses within is the fault of the folder that the user chose."""
    try:
        yield
    except OSError as fault:
        raise ConfigError(
            f"{out} cannot be used: {fault.filename or out}: {fault.strerror}; choose another place with --out"
        ) from None


def _nature(name: str, stage: Stage, workshop: Workshop) -> list[Any]:
    """What tells a stage from one that would make something else of the same inputs."""
    models = [model for model in stage.named_models() if model not in workshop.recipe.before(name)]
    more = [_identity(file) for file in (*stage.named_files(), *models)]
    if (other := stage.depends_on(workshop)) is not None:
        more.append(other)
    return [name, type(stage).__name__, stage.model_dump(mode="json"), *more]


def _begin(workshop: Workshop, fingerprint: str, title: str) -> dict[str, Any]:
    """Makes a stage's folder ready; the record of what is already done in it, empty where that is nothing."""
    folder, output = workshop.folder, workshop.output
    record = _record(folder)
    if record and record.get("fingerprint") != fingerprint:
        aside = _free_name(folder)
        folder.rename(aside)
        output.print(f"{title}  settings or data changed; the earlier result is kept in {aside}")
        record = {}
    elif record.get("finished"):
        output.print(f"{title}  finished earlier, reused ({folder})")
        return record
    else:
        output.print(f"{title}{'  goes on where it was interrupted' if record else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    return record


def _work(stage: Stage, workshop: Workshop, fingerprint: str, before: float) -> dict[str, Any]:
    """Runs a stage and keeps the record in its folder; `before` is the time that interrupted runs of it took."""
    path = workshop.folder / _RECORD
    started = time.monotonic() - before
    unfinished = {"fingerprint": fingerprint, "finished": False}
    write_json(path, {**unfinished, "seconds": before})
    try:
        result = stage.run(workshop)
    except BaseException:
        with suppress(PenjingError):  # why it stopped matters more than that its time is not known
            write_json(path, {**unfinished, "seconds": time.monotonic() - started})
        raise
    result = {**result, "seconds": time.monotonic() - started}
    settings = {"kind": kind_name(type(stage)), **stage.model_dump(mode="json")}
    write_json(path, {"fingerprint": fingerprint, "finished": True, "settings": settings, "result": result})
    return result


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / _RECORD).exists():
        return {}
    value = read_json(folder / _RECORD, ConfigError)
    return value if isinstance(value, dict) else {}


def _free_name(folder: Path) -> Path:
    number = 1
    while (candidate := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return candidate


def _identity(data: str | None) -> list[Any]:
    """What tells one text from another without reading it: each file's name, size and time of change."""
    return [data] if data is None or is_dataset(data) else places.identity(data)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
