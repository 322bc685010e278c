"""The learning path: both languages say the same, all that is named exists, checks tell right from wrong."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATH = DOCS / "path"
CHAPTERS = sorted(page for page in PATH.glob("*.md") if not page.name.endswith(".zh.md"))
CHINESE = sorted(DOCS.rglob("*.zh.md"))
GUIDES = sorted(page for page in DOCS.glob("guides/*.md") if not page.name.endswith(".zh.md"))
PAGES = sorted([*PATH.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("index*.md")])
OURS = tuple(f"{number:02d}" for number in range(1, 27) if number != 15)
ANSWERS = Path(__file__).parent / "answers"

MISTAKES = {
    "01": [
        ("left to right only", "min(found)[1]", "found[0][1]"),
        ("no merges", "train as learn", "merge_pair as learn"),
    ],
    "02": [("not shifted", "tokens[:, 1:]", "tokens[:, :-1]"), ("no biases", "13 *", "4 *")],
    "03": [
        ("turned the other way", "crossed * torch", "-crossed * torch"),
        (
            "too little",
            "ntk_theta  # noqa: F401",
            "ntk_theta as lower\n\n\ndef ntk_theta(theta, dim, factor):\n    return lower(theta, 2 * dim, factor)",
        ),
    ],
    "04": [
        ("rounded down", "-(-8 * width // (3 * multiple))", "8 * width // (3 * multiple)"),
        ("rows", "* gain", "* 2"),
    ],
    "05": [("upper left triangle", "tril(keys - queries)", "tril()"), ("keys alone", "2 * layers", "layers")],
    "06": [
        ("best fit of another kind", "import best_fit", "import efficiency as best_fit"),
        ("no restart", "range(length)", "range(9, 9 + length)"),
    ],
    "07": [
        ("the mean of means", "gradient * count for", "gradient * sum(tokens) / len(tokens) for"),
        ("no decay", "weight_decay=weight_decay", "weight_decay=0"),
    ],
    "08": [
        ("tall ones untouched", "near.mT if tall", "matrix if tall"),
        ("the gradient itself", "left @ right", "gradient"),
    ],
    "09": [
        ("not rescaled", "[0].softmax(-1)", "[0].exp()"),
        ("heat the wrong way", "[None], temperature)", "[None], 1 / temperature)"),
    ],
    "10": [
        ("everything scored", "window.first, window.end", "window.begin, window.end"),
        ("the unigram", "vocab, dtype=np.int64)).bigram", "vocab, dtype=np.int64)).unigram"),
    ],
    "11": [
        ("no end of turn", "[learned] * (len(said) + 1) + [False]", "[learned] * len(said) + [False, False]"),
        ("not shifted", "mask[:, 1:]", "mask[:, :-1]"),
    ],
    "12": [
        (
            "one character too many",
            "import conditional_entropy as entropy  # noqa: F401",
            "import conditional_entropy\n\n\ndef entropy(text, n):\n    return conditional_entropy(text, n + 1)\n\n",
        ),
        (
            "another confidence",
            "import wilson as interval  # noqa: F401",
            "import wilson\n\n\ndef interval(right, items):\n    return wilson(right, items, 1.0)",
        ),
    ],
    "13": [
        ("pairs left as they are", "pairs[:, 0::2], pairs[:, 1::2]", "pairs"),
        ("itself not counted", "1 + sum", "sum"),
    ],
    "14": [
        ("a batch at a time", "heapq.heappop(free) + length", "heapq.heappop(free) + max(lengths)"),
        ("the last token too", "len(prompt) - 1)", "len(prompt))"),
    ],
    "16": [
        ("one token too many", "needed_after(token) < left", "needed_after(token) <= left"),
        ("not renormalised", "sum(allowed.values())", "sum(chances.values())"),
    ],
    "17": [
        ("the length forgotten", "content[start + begin : start + end]", "content[8 + begin : 8 + end]"),
        ("neighbours in a byte", ".flatten()", ".view(-1, 2, 16).mT.flatten()"),
    ],
    "18": [
        ("a piece within the word", 'else "[UNK]" for', 'else "##[UNK]" for'),
        ("padding counted", "torch.where(real, 0, -1)", "torch.where(real, 0, 0)"),
    ],
    "19": [
        ("the powers exchanged", "beta / total), budget ** (alpha", "alpha / total), budget ** (beta"),
        ("not in logarithms", "n = np.log(sizes)", "n = np.log(np.sqrt(sizes))"),
    ],
    "20": [
        ("of the work, not of the time", "(micro_batches + stages - 1)", "micro_batches"),
        ("the larger of the two", "torch.logaddexp(lse_1, lse_2)", "torch.maximum(lse_1, lse_2)"),
    ],
    "21": [
        ("the largest of one", "min(map(h, two))", "max(map(h, two))"),
        ("from the left", "enumerate(reversed(number))", "enumerate(number)"),
    ],
    "22": [
        ("times, not by", "rewards / beta", "rewards * beta"),
        ("the two exchanged", "Pairs(chosen, rejected,", "Pairs(rejected, chosen,"),
    ],
    "23": [
        ("also those at the threshold", "score > limit", "score >= limit"),
        ("a dot is enough", 'held[place + 1] == " "', "True"),
    ],
    "24": [
        ("the two exchanged", "scores[better], scores[worse]", "scores[worse], scores[better]"),
        ("as sure the other way", "calibration(differences,", "calibration(-differences,"),
    ],
    "25": [
        ("the rewards alone", "gamma, lam)[0]", "gamma, 1.0)[0]"),
        (
            "never clipped",
            "old_log_probs, advantages, clip)\n    return",
            "old_log_probs, advantages, 100.0)\n    return",
        ),
    ],
    "26": [
        ("all of one group", "torch.arange(len(rewards))", "torch.zeros(len(rewards), dtype=torch.long)"),
        ("as the reference draws", "log_probs.detach().exp()", "reference"),
    ],
}
"""By chapter, for each of its two exercises in turn: what is wrong, what of our answers is replaced, and by what."""


@pytest.fixture(params=OURS)
def chapter(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def check(chapter: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(PATH / "checks"))
    spec = importlib.util.spec_from_file_location(f"check_{chapter}", PATH / "checks" / f"{chapter}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("checking", None)


def headings(text: str) -> list[int]:
    """The levels of a page's headings, in order."""
    return [len(mark) for mark in re.findall(r"^(#+) ", without_code(text), re.MULTILINE)]


def blocks(text: str) -> list[str]:
    return re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def images(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)


@pytest.mark.parametrize("page", [*CHAPTERS, *GUIDES, DOCS / "index.md"], ids=lambda page: page.name)
def test_a_page_says_the_same_in_chinese(page: Path):
    """Oracle: the English page. Headings of the same levels, the same pictures, the same code, output and equations."""
    english = page.read_text(encoding="utf-8")
    chinese = page.with_suffix(".zh.md").read_text(encoding="utf-8")
    assert headings(chinese) == headings(english)
    assert images(chinese) == images(english)
    assert blocks(chinese) == blocks(english)
    assert len(re.findall(r"[\u4e00-\u9fff]", without_code(chinese))) > 100


@pytest.mark.parametrize("page", [*CHINESE, ROOT / "README.zh.md"], ids=lambda page: page.name)
def test_a_chinese_page_leads_to_chinese_pages(page: Path):
    """Also where no site chooses the language, as among the files of a repository."""
    links = re.findall(r"(?<!\[English)\]\(([^)\s]+)\.md\)", page.read_text(encoding="utf-8"))
    english = [link for link in links if not link.endswith(".zh") and (page.parent / f"{link}.zh.md").exists()]
    assert not english


@pytest.mark.parametrize("page", [*CHINESE, ROOT / "README.zh.md"], ids=lambda page: page.name)
def test_a_thing_has_one_name_in_chinese(page: Path):
    """Packing is 打包 and a skill 技能 on every page."""
    assert not re.findall("装箱|本领", without_code(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["README.md", "README.zh.md", "docs/index.md", "docs/index.zh.md"])
def test_what_is_said_of_a_command_is_what_it_does(name: str):
    """`make test` leaves the slow tests out, and `penjing eval` with a text measures skills only when it is told to."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"(\$ )?make test ", line)]
    assert lines
    assert all("make test-all" in line for line in lines)
    rows = [line for line in text.splitlines() if line.startswith("| `penjing eval")]
    assert all("--skills" in row for row in rows if "--data" in row)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path):
    """Links and pictures relative to the page; `src/...`, `docs/...` and the like from the project's root."""
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(r"\b(?:src|docs|tests|recipes|benchmarks|deploy)/[\w./-]*\.(?:py|toml|md|png|sbatch|yaml)", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_each_chapter_has_its_parts(chapter: str):
    """A picture, an experiment, a check, two exercises by the names that the check knows."""
    (page,) = PATH.glob(f"{chapter}-*[!h].md")
    text = page.read_text(encoding="utf-8")
    assert f"images/{page.stem}.png" in text
    assert f"docs/path/experiments/{page.stem.replace('-', '_')}.py" in text
    assert f"docs/path/checks/{chapter}.py" in text
    decided = re.findall(
        r'checks\.exercise\("(\w+)"\)', (PATH / "checks" / f"{chapter}.py").read_text(encoding="utf-8")
    )
    assert len(decided) == 2
    assert all(f"def {name}(" in text for name in decided)


def test_our_own_code_is_a_right_answer(chapter: str, check: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert check.checks.main([str(ANSWERS / f"{chapter}.py")]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("exercise", [0, 1])
def test_a_wrong_answer_is_refused(
    exercise: int, chapter: str, check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The mistake is found in the exercise that has it, and the other exercise is still right."""
    _, right, wrong = MISTAKES[chapter][exercise]
    text = (ANSWERS / f"{chapter}.py").read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "answer.py").write_text(text.replace(right, wrong), encoding="utf-8")
    assert check.checks.main([str(tmp_path / "answer.py")]) == 1
    lines = sorted(capsys.readouterr().out.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("right"), lines
    assert lines[1].startswith("wrong"), lines


def test_a_check_without_an_answer_says_what_it_wants(
    chapter: str, check: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert check.checks.main([]) == 2
    assert "It defines" in capsys.readouterr().err


def test_an_exercise_that_is_not_written_yet_is_named(chapter: str, check: ModuleType, tmp_path: Path, capsys):
    (tmp_path / "answer.py").write_text("", encoding="utf-8")
    assert check.checks.main([str(tmp_path / "answer.py")]) == 1
    assert capsys.readouterr().out.count("not written yet") == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "06", "13", "16", "17", "18"])
def test_an_experiment_still_runs(number: str, tmp_path: Path):
    """Two steps on few documents: it prints, and draws its picture."""
    (script,) = (PATH / "experiments").glob(f"{number}_*.py")
    few = [] if number == "01" else ["--steps", "2"]
    command = [sys.executable, str(script), "--documents", "300", "--out", str(tmp_path), *few]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (tmp_path / f"{script.stem.replace('_', '-')}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_experiment_on_scaling_laws_still_runs(data: Path, tmp_path: Path):
    """It is a matter of seconds, so it runs whole: the refit's constants are among what it prints."""
    script = PATH / "experiments" / "19_scaling_laws.py"
    runs = data / "eval" / "chinchilla_svg_extracted_data.csv"
    command = [sys.executable, str(script), str(runs), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"ours +1\.817 +477\.8 +2143 +0\.3473 +0\.3672 +1\.0183", done.stdout)
    assert (tmp_path / "19-scaling-laws.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_experiment_on_many_processes_still_runs(tmp_path: Path):
    """Three steps in each of the five ways: within 1e-4 of one process, and the bytes within a hundredth of theory."""
    script = PATH / "experiments" / "20_many_processes.py"
    command = [sys.executable, str(script), "--documents", "300", "--out", str(tmp_path), "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\w+ 2 +[\d.]+ +(\S+) +(\d+) +(\d+) +\d+$", done.stdout, re.MULTILINE)
    assert len(rows) == 5, done.stdout
    for difference, sent, theory in rows:
        assert float(difference) < 1e-4
        assert 1 <= float(sent) / float(theory) < 1.01
    assert (tmp_path / "20-many-processes.png").stat().st_size > 10_000


def test_no_page_has_a_gap_to_be_filled():
    """Figures are pasted from experiments; a mark that was left for one is a page that was never finished."""
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("README*.md")]
    assert [page.name for page in pages if re.search(r"@@\w+@@|\{\{\d", page.read_text(encoding="utf-8"))] == []
