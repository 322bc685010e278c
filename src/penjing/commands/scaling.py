"""`penjing scaling`: fit a law to runs, plan a run by it, fit learning rates to a width, see a law hold on a ladder."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from penjing.stages.settings import Model, Training
    from penjing.training.scaling_laws import Chinchilla, Points

app = typer.Typer(help="Scaling laws: what loss a size and a text will give.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
_Runs = Annotated[Path, typer.Argument(help="CSV of runs: loss, and two of parameters, tokens, flops.")]
_Drop = Annotated[int, typer.Option(min=0, help="Leave out so many runs of highest loss.")]
_WIDEST = 2**20
_Resamples = Annotated[int, typer.Option(min=20, help="Bootstrap fits, for the intervals.")]


@app.command("fit")
def fit(
    points: _Runs,
    drop_highest: _Drop = 0,
    resamples: _Resamples = 200,
    json: _Json = False,
) -> None:
    """Fit Chinchilla's and Kaplan's laws to finished runs, and find the best size for a budget in three ways.

    Examples:
    \b
      $ penjing scaling fit runs/scaling-ladder/ladder/points.csv
      $ penjing scaling fit POINTS.csv --drop-highest 5 --json
    """
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from penjing.training.scaling_laws import Chinchilla, Kaplan, Points, bootstrap, huber_sum, interval
    from penjing.training.scaling_laws import fit as fit_law

    runs = Points.read(points).without_highest(drop_highest)
    fitted = fit_law(runs, Chinchilla)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("resampling", total=resamples)
        laws = bootstrap(runs, fitted, resamples=resamples, progress=lambda done, _: bar.update(task, completed=done))
    kaplan = fit_law(runs, Kaplan)
    hoffmann = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    ranges = {name: interval([getattr(law, name) for law in laws]) for name in Chinchilla.NAMES}
    found: dict[str, Any] = {
        "runs": len(runs),
        "chinchilla": {**asdict(fitted.law), "huber_sum": fitted.objective, "intervals": ranges},
        "kaplan": {**asdict(kaplan.law), "huber_sum": kaplan.objective},
        "hoffmann_printed": {**asdict(hoffmann), "huber_sum": huber_sum(hoffmann, runs)},
        "exponents": _exponents(runs, fitted.law, [law.exponent for law in laws]),
    }
    if json:
        typer.echo(dumps(found))
        return
    _show_fit(Console(highlight=False), found)


def _exponents(runs: "Points", law: "Chinchilla", resampled: list[float]) -> dict[str, Any]:
    """How fast the best size grows with compute, by each of the three approaches; None where runs do not say."""
    from penjing.errors import DataError
    from penjing.training.scaling_laws import envelope, interval, isoflop

    found: dict[str, Any] = {"parametric": law.exponent, "parametric_interval": interval(resampled)}
    for name, approach in (("envelope", envelope), ("isoflop", isoflop)):
        try:
            found[name] = approach(runs).exponent
        except DataError as reason:
            found[name], found[f"{name}_missing"] = None, str(reason)
    return found


def _show_fit(console: "Console", found: dict[str, Any]) -> None:
    from rich.table import Table

    law = found["chinchilla"]
    console.print(f"{found['runs']} runs. Chinchilla's law  L = E + A / N^alpha + B / D^beta:")
    table = Table("", "value", "95 %", "Hoffmann et al. print", box=None)
    for name, (low, high) in law["intervals"].items():
        table.add_row(name, f"{law[name]:.4g}", f"{low:.4g} to {high:.4g}", f"{found['hoffmann_printed'][name]:g}")
    table.add_row("Huber sum", f"{law['huber_sum']:.4e}", "", f"{found['hoffmann_printed']['huber_sum']:.4e}")
    console.print(table)
    kaplan = found["kaplan"]
    console.print(
        f"Kaplan's law: N_c {kaplan['N_c']:.3g}, D_c {kaplan['D_c']:.3g}, alpha_N {kaplan['alpha_N']:.4f}, "
        f"alpha_D {kaplan['alpha_D']:.4f}; Huber sum {kaplan['huber_sum']:.4e}",
        soft_wrap=True,
    )
    exponents = found["exponents"]
    low, high = exponents["parametric_interval"]
    console.print("Best size grows as C to the power of")
    console.print(f"  {exponents['parametric']:.3f} ({low:.3f} to {high:.3f})  by the law")
    for name, told in (("isoflop", "by parabolas of equal compute"), ("envelope", "by the envelope of all runs")):
        value = exponents[name]
        console.print(
            f"  {value:.3f}  {told}" if value is not None else f"  -      {told}: {exponents[name + '_missing']}"
        )


@app.command("plan")
def plan(
    flops: Annotated[float | None, typer.Option(help="The budget in floating-point operations, such as 1e21.")] = None,
    hours: Annotated[float | None, typer.Option(help="The budget in hours of the machine, instead.")] = None,
    points: Annotated[
        Path | None, typer.Option(help="CSV of your own runs to fit; by default Chinchilla's published ones.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="Peak operations a second of one device; by default this machine's, measured.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="The share of the peak that training reaches.")] = 0.4,
    devices: Annotated[int, typer.Option(help="How many devices.")] = 1,
    price: Annotated[float | None, typer.Option(help="What a device costs an hour.")] = None,
    drop_highest: _Drop = 0,
    resamples: _Resamples = 200,
    json: _Json = False,
) -> None:
    """Plan a run: parameters, tokens, loss, batch, learning rate, time and cost for a budget.

    Examples:
    \b
      $ penjing scaling plan --flops 1e21 --speed 989e12 --devices 8 --price 2.5
      $ penjing scaling plan --hours 24
      $ penjing scaling plan --flops 1e16 --points runs/scaling-ladder/ladder/points.csv
    """
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console

    from penjing.errors import ConfigError
    from penjing.training.scaling_laws import Chinchilla, Machine, Points, bootstrap, published
    from penjing.training.scaling_laws import fit as fit_law
    from penjing.training.scaling_laws import plan as plan_run

    if (flops is None) == (hours is None):
        raise ConfigError("give a budget: --flops 1e21, or --hours 24")
    if points is None and drop_highest:
        raise ConfigError("--drop-highest leaves out runs of your own: give them with --points")
    machine = Machine(_measured() if speed is None else speed, utilisation, devices, price)
    if points is None:
        law, laws = published()
    else:
        runs = Points.read(points).without_highest(drop_highest)
        fitted = fit_law(runs, Chinchilla)
        law, laws = fitted.law, bootstrap(runs, fitted, resamples=resamples)
    found = plan_run(machine.flops(hours) if flops is None and hours is not None else flops or 0.0, machine, law, laws)
    if json:
        typer.echo(dumps({**asdict(found), "steps": found.steps, "machine": asdict(machine)}))
        return
    _show_plan(Console(highlight=False), found, machine, points)


def _measured() -> float:
    """The peak of this machine's device."""
    from penjing.device import choose_device, measure

    speed = measure(choose_device("auto"))
    return 1e9 * max(speed.fp32_gflops, speed.bf16_gflops)


def _show_plan(console: "Console", found: Any, machine: Any, points: Path | None) -> None:
    def estimate(value: Any, unit: str = "") -> str:
        return f"{_short(value.value)}{unit} ({_short(value.low)} to {_short(value.high)})"

    law = "Chinchilla's 240 published runs, refitted" if points is None else f"the runs in {points}"
    shape, loss = found.shape, found.loss
    lines = {
        "budget": f"{found.flops:.3g} operations",
        "parameters": f"{estimate(found.parameters)}, such as {shape.layers} layers of width {shape.width}, "
        f"{shape.heads} heads",
        "tokens": f"{estimate(found.tokens)}, {found.tokens.value / found.parameters.value:.1f} for each parameter",
        "loss": f"{loss.value:.3f} ({loss.low:.3f} to {loss.high:.3f}) nats a token, on text like the law's",
        "batch": f"{_short(found.batch)} tokens, {found.steps:,} steps   "
        f"(DeepSeek's law: {_short(found.deepseek_batch)})",
        "learning rate": f"{found.learning_rate:.2e}, AdamW   (DeepSeek's law: {found.deepseek_learning_rate:.2e})",
        "time": f"{_time(found.hours)} on {machine.devices} x {machine.flops_per_second / 1e12:.3g} TFLOP/s "
        f"at {machine.utilisation:.0%}",
        "cost": "" if found.cost is None else f"{found.cost:,.2f}",
    }
    console.print(f"By {law}; brackets hold 95 % intervals of the fit:", soft_wrap=True)
    for name, text in lines.items():
        if text:
            console.print(f"  {name:<14}{text}", soft_wrap=True)


def _time(hours: float) -> str:
    """Hours as people say them: days from three of them on."""
    from penjing.training.progress import duration

    return duration(hours * 3600) if hours < 72 else f"{hours / 24:,.1f} days"


def _short(value: float) -> str:
    """A count in thousands, millions, billions or trillions."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


@app.command("transfer")
def transfer(
    width: Annotated[int, typer.Option(min=1, max=_WIDEST, help="The width of the model to train.")],
    tuned_width: Annotated[
        int | None, typer.Option(min=1, max=_WIDEST, help="The width of the model whose learning rates are known.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Its learning rate: of hidden matrices with Muon, of everything with AdamW.")
    ] = None,
    adamw_learning_rate: Annotated[
        float | None, typer.Option(help="Its learning rate of what Muon leaves to AdamW; by default the same.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0, help="Its weight decay.")] = 0.1,
    optimizer: Annotated[Literal["muon", "adamw"], typer.Option(help="What it was trained with.")] = "muon",
    family: Annotated[Literal["gpt2", "llama", "qwen3"], typer.Option(help="What both models are.")] = "llama",
    tied: Annotated[bool, typer.Option(help="Whether the head is the embedding.")] = True,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe that says all this of the tuned model, instead of options.")
    ] = None,
    json: _Json = False,
) -> None:
    """Fit the learning rates of a small model to a wider one by muP, so that only the small one needs to be tuned.

    Training does it by itself where a recipe's model has a tuned_width. Batch, steps and layers are as in both.

    Examples:
    \b
      $ penjing scaling transfer --width 1024 --tuned-width 128 --learning-rate 0.01
      $ penjing scaling transfer --width 768 --tuned-width 64 --learning-rate 0.004 --optimizer adamw --json
      $ penjing scaling transfer --width 512 --recipe tiny-chat
    """
    from json import dumps
    from math import gcd

    from rich.console import Console

    from penjing.errors import ConfigError
    from penjing.stages.settings import Model, Training

    if recipe is not None:
        if tuned_width is not None or learning_rate is not None or adamw_learning_rate is not None:
            raise ConfigError("a recipe names the tuned width and its learning rates: leave out the options that do")
        shape, training = _tuned_by(recipe)
    elif tuned_width is None or learning_rate is None:
        raise ConfigError("give --tuned-width and --learning-rate of the model that was tuned, or a --recipe")
    else:
        for name, rate in (("learning rate", learning_rate), ("AdamW learning rate", adamw_learning_rate)):
            if rate is not None and not 0 < rate < float("inf"):
                raise ConfigError(f"the {name} is {rate:g}; it must be a number above 0")
        heads = tuned_width // gcd(width, tuned_width, 64)
        shape = Model(family=family, width=tuned_width, layers=1, heads=heads, tied=tied)
        training = Training(
            optimizer=optimizer,
            learning_rate=learning_rate,
            adamw_learning_rate=adamw_learning_rate,
            weight_decay=weight_decay,
            steps=1,
        )
    rows = _fitted(shape, training, width)
    found = {"tuned_width": shape.width, "width": width, "optimizer": training.optimizer, "weights": rows}
    if json:
        typer.echo(dumps(found))
        return
    _show_fitted(Console(highlight=False), found)


def _tuned_by(recipe: str) -> "tuple[Model, Training]":
    """The model of a recipe's pretrain stage, and how it is trained."""
    from penjing.errors import ConfigError
    from penjing.recipe import Recipe
    from penjing.stages import KINDS
    from penjing.stages.training import Pretrain

    chosen = Recipe.read(recipe, KINDS, [])
    stage = next((stage for stage in chosen.stages.values() if isinstance(stage, Pretrain)), None)
    if stage is None:
        raise ConfigError(f"the recipe '{chosen.name}' has no pretrain stage")
    return stage.model.tuned() or stage.model, stage.training


def _fitted(shape: "Model", training: "Training", width: int) -> list[dict[str, Any]]:
    """Learning rate, decay and factors of each kind of weight; kinds that have all of them in common are together."""
    from dataclasses import replace

    import torch

    from penjing.errors import ConfigError
    from penjing.training.muon import Muon

    if shape.heads * width % shape.width:
        raise ConfigError(
            f"width is {width}, no multiple of the width of a head, {shape.width / shape.heads:g}: "
            "both models need heads of the same width"
        )
    size: dict[str, int | None] = {
        "width": width,
        "heads": shape.heads * width // shape.width,
        "tuned_width": shape.width,
    }
    for name in ("kv_heads", "hidden"):
        known = getattr(shape, name)
        size[name] = known if known is None else max(1, round(known * width / shape.width))
    wanted = shape.model_copy(update=size)
    rule = wanted.transfer(vocab=1)
    with torch.device("meta"):
        model = wanted.config(vocab=1).build()
    assert rule is not None
    optimizer = rule.optimizer(training.trainer(seed=0).optimizer)
    if isinstance(optimizer, Muon.Config):
        optimizer = replace(optimizer, precision="fp32")  # nothing is computed, so nothing to be measured
    groups = {id(weight): group for group in optimizer.build(model).param_groups for weight in group["params"]}
    kinds: dict[tuple[Any, ...], dict[str, None]] = {}
    for name, weight in model.named_parameters():
        group, factors = groups[id(weight)], rule.factors[name]
        factor = factors.muon if group["method"] == "muon" else factors.adamw
        numbers = (group["peak"], factor, group["weight_decay"], factors.initial)
        kind = (group["method"], *(float(f"{number:.9g}") for number in numbers))  # equal but for rounding is equal
        kinds.setdefault(kind, {})[re.sub(r"^blocks\.\d+\.|\.weight$", "", name)] = None
    keys = ("optimizer", "learning_rate", "learning_rate_factor", "weight_decay", "initial_factor")
    return [{"weights": list(names), **dict(zip(keys, kind, strict=True))} for kind, names in kinds.items()]


def _show_fitted(console: "Console", found: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(f"Learning rates of width {found['tuned_width']}, fitted to width {found['width']}:")
    table = Table("weights", box=None)
    for head in ("by", "learning rate", "factor", "decay", "first weights"):
        table.add_column(head, justify="right", no_wrap=True)
    names = {"muon": "Muon", "adamw": "AdamW"}
    for row in found["weights"]:
        numbers = [f"{row['learning_rate']:.4g}", f"x {row['learning_rate_factor']:.4g}", f"{row['weight_decay']:.4g}"]
        by = names[row["optimizer"]]
        table.add_row(", ".join(row["weights"]), by, *numbers, f"x {row['initial_factor']:.4g}")
    console.print(table)
    console.print(
        f"\nTraining does this by itself: in a recipe's model, width = {found['width']} and "
        f"tuned_width = {found['tuned_width']}; learning rates as tuned.",
        soft_wrap=True,
    )


@app.command("run")
def run(
    out: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("runs/scaling-ladder"),
    recipe: Annotated[str, typer.Option(help="A recipe with a ladder stage.")] = "scaling-ladder",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    json: _Json = False,
) -> None:
    """Train a ladder of small runs, fit a law, predict a larger run, train it, and compare.

    About half an hour on two cores. Finished runs are reused, so the same command again goes on.

    Examples:
    \b
      $ penjing scaling run
      $ penjing scaling run --set ladder.tokens=[250000,500000,1000000] --out runs/short-ladder
    """
    from json import dumps

    from rich.console import Console

    from penjing.errors import ConfigError
    from penjing.recipe import Interrupted, Recipe, run_stages
    from penjing.stages import KINDS

    console = Console(stderr=json, highlight=False)
    chosen = Recipe.read(recipe, KINDS, set_ or [])
    ladder = next((name for name, stage in chosen.stages.items() if type(stage) is KINDS["ladder"]), None)
    if ladder is None:
        raise ConfigError(f"the recipe '{chosen.name}' has no ladder stage")
    console.print(f"[bold]{chosen.name}[/bold]  {chosen.description}\n  into {out}", soft_wrap=True)
    try:
        results = run_stages(chosen, out, None, console)
    except Interrupted:
        raise typer.Exit(130) from None
    found = results[ladder]
    if json:
        typer.echo(dumps(found))
        return
    console.print(
        f"\npredicted {found['predicted']:.4f}, came to {found['actual']:.4f}: {found['error']:+.2%}\n"
        f"points, law and plot: {out / ladder}",
        soft_wrap=True,
    )
