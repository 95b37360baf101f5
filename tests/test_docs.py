"""The code in the pages is run."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import tmask
from tmask.cli import app
from tmask.solving import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(code):
    """The names that a block of code leaves."""
    names = {}
    exec(code, names)
    return names


def test_the_readme_runs(capsys):
    printed = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    masks, training, pruning = python_blocks("README.md")
    names = run(masks)
    assert names["solution"].optimality_gap == 0
    assert capsys.readouterr().out == printed[0]
    trained = run(training)["model"]
    assert capsys.readouterr().out == printed[1]
    assert [name for name, _ in trained.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    tmask.check_mask(trained[0].weight != 0, "2:4", at_most=True)  # a kept weight may shrink to 0
    for mask in run(pruning)["report"].masks.values():
        tmask.check_mask(mask, "4:8")
    assert capsys.readouterr().out == printed[2]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_the_first_page_of_the_site_runs(capsys):
    (code,) = python_blocks("docs/index.md")
    run(code)
    assert capsys.readouterr().out.startswith("<Solution 2:4 matrix (512, 512) by midpoint: optimal, gap 0")


def test_the_example_method_works(monkeypatch):
    pytest.importorskip("torch")
    from tmask.nn.methods import registry as methods  # torch may be missing where this file is collected

    monkeypatch.setattr(methods, "_registered", {})
    template, trial = python_blocks("docs/tutorials/your-first-pruning-method.md")
    run(template)
    tmask.check_mask(run(trial)["pruned"].mask, "2:4")


def test_the_example_solver_works(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    (code,) = python_blocks("docs/tutorials/your-first-solver.md")
    names = {"__name__": "example"}
    exec(code, names)
    tmask.register_solver(names["Circulant"])
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    solution = tmask.solve(weight, "4:8", "circulant", step=3)
    tmask.check_mask(solution.mask, "4:8")
    assert 0 < solution.optimality_gap < 0.5


def test_mask_files_are_as_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    save_file({"layer": weight}, "model.safetensors")
    command = ["solve", "model.safetensors", "-p", "2:4", "-o", "masks.safetensors"]
    assert CliRunner().invoke(app, command).exit_code == 0
    (code,) = python_blocks("docs/reference/mask-files.md")
    names = {}
    exec(code, names)
    np.testing.assert_array_equal(names["mask"], tmask.solve(weight, "2:4").mask)
    page = (ROOT / "docs/reference/mask-files.md").read_text()
    for field in names["layer"]:
        assert f"`{field}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_source_that_is_cited_is_listed():
    listed = set(re.findall(r"^- \[(\w+\d{4})\]", (ROOT / "docs/reference/references.md").read_text(), re.MULTILINE))
    sources = [*(ROOT / "tmask").rglob("*.py"), *(ROOT / "solvers").rglob("*.py"), *PAGES]
    cited = {key for path in sources for key in re.findall(r"\[([A-Z][a-z]+\d{4})[,\]]", path.read_text())}
    assert cited
    assert cited <= listed


def test_every_solver_is_in_the_page_on_choosing():
    page = (ROOT / "docs/how-to/choosing-a-solver.md").read_text()
    for name in registry.BUILTIN:
        assert f"`{name}`" in page


def test_the_page_on_pruning_runs():
    pytest.importorskip("torch")
    names = {}
    for code in python_blocks("docs/how-to/pruning.md"):
        exec(code, names)
    assert [row.layer for row in names["report"].layers] == ["1.weight", "4.weight"]
    assert set(names["by_pattern"]) == {"2:4", "4:8"}
    allocated, allocation = names["allocated"], names["allocation"]
    assert {row.layer: row.pattern for row in allocated.layers} == {n: str(p) for n, p in allocation.patterns.items()}
    kept = sum(int(mask.sum()) for mask in allocated.masks.values())
    assert kept / sum(mask.numel() for mask in allocated.masks.values()) == allocation.density <= 0.4
    page = (ROOT / "docs/how-to/pruning.md").read_text()
    for transposable in (False, True):
        pattern = names["fitting_pattern"](names["weight"], 8, transposable=transposable).pattern
        assert f".pattern  # {pattern}:" in page
    from tmask.nn import available_scores  # torch may be missing where this file is collected

    for score in available_scores():
        assert f"`{score.name}`" in page


def test_the_commands_on_many_machines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).standard_normal((48, 24)).astype(np.float32)
    save_file({"layer": weights}, "MODEL.safetensors")
    page = (ROOT / "docs/how-to/scale-out.md").read_text()
    loops = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if block.startswith("for i")]
    assert len(loops) == 2
    for block in loops:
        solve, merge = re.fullmatch(r"for i in 1 2 3; do (.*) & done; wait\n(.*)\n", block).groups()
        for command in (*(solve.replace("$i", shard) for shard in "123"), merge):
            words = [word.replace("MODEL", "MODEL.safetensors") for word in command.split()[1:]]
            assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0, command
    assert CliRunner().invoke(app, ["check", "masks.safetensors.index.json", "MODEL.safetensors"]).exit_code == 0
    np.testing.assert_array_equal(tmask.read_masks(tmp_path / "masks.safetensors.index.json")["layer"].mask,
                                  tmask.solve(weights, "4:8").mask)  # fmt: skip
    assert sorted(path.name for path in Path("pruned").iterdir())[-1] == "model.safetensors.index.json"


def test_the_plan_for_many_machines_follows_from_its_rows():
    measured = (ROOT / "bench/results/matrix.md").read_text()

    def at_4_8(part, row):
        lines = measured.split(f"\n## {part}\n")[1].split("\n## ")[0].splitlines()
        cells = {line.split("|")[1].strip(): line.split("|") for line in lines if line.startswith("|")}
        return float(cells[row][cells[""].index(next(cell for cell in cells[""] if cell.strip() == "4:8"))])

    by_dtype = "2048 x 2048: microseconds a block, by dtype"
    slower = at_4_8(by_dtype, "bfloat16") / at_4_8(by_dtype, "float32")
    nanoseconds = at_4_8("Nanoseconds a weight, by side of the matrix", "8192") * slower
    page = (ROOT / "docs/how-to/scale-out.md").read_text()
    assert f": {nanoseconds:.1f} ns" in page

    def words(seconds):
        minutes = seconds / 60
        return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes > 10 else f"{minutes:.1f} min"

    for billions in (70, 400):
        times = " | ".join(words(billions * nanoseconds / shards) for shards in (1, 8, 64))
        assert f"| {billions} B | {2 * billions} GB | {billions / 8:.4g} GB | {times} |" in page


def test_the_page_on_many_machines_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    alone, cluster = python_blocks("docs/how-to/scale-out.md")
    run(alone)
    assert capsys.readouterr().out == "masks.safetensors.index.json\n(64, 64)\n"
    assert Path("pruned/model.safetensors.index.json").exists()
    here = {
        '"tcp://scheduler:8786"': "n_workers=2, threads_per_worker=1, dashboard_address=None",
        "/data/model": "model.safetensors",
        "/data/masks": "others",
        "shards=64": "shards=3",
    }
    for there, instead in here.items():
        assert there in cluster
        cluster = cluster.replace(there, instead)
    run(alone.split("index =")[0] + "import tmask\n" + cluster)
    assert Path("others.safetensors.index.json").exists()


def test_the_page_on_language_models_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from tests.nn.tiny_language import save_model, text  # transformers may be missing where this file is collected

    monkeypatch.chdir(tmp_path)
    save_model(Path("model"), layers=2, hidden_size=32, num_key_value_heads=2, max_position_embeddings=512)
    Path("calibration.txt").write_text(text(32 * 512))
    Path("other.txt").write_text(text(6000, seed=1))
    page = (ROOT / "docs/how-to/language-models.md").read_text()
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for command in block.splitlines():
            if command.startswith("tmask "):
                result = CliRunner().invoke(app, command.split()[1:])
                assert result.exit_code == 0, f"{command}: {result.output}"
    assert Path("pruned/tmask/report.json").exists()
    pruning, training = python_blocks("docs/how-to/language-models.md")
    names = run(pruning)
    for name, mask in names["masks"].items():
        tmask.check_mask(mask, "4:8")
        assert ((names["model"].get_parameter(name) == 0) >= ~mask).all()
    trained = run(training)
    for name, mask in trained["masks"].items():
        assert ((trained["model"].get_parameter(name) == 0).numpy() >= ~mask).all()
    from tmask.nn import available_methods

    for method in available_methods():
        assert f"`{method}`" in page
