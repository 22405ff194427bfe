# A sweep over seeds and parameters, every chapter a job. See book/recipes.md.
#
#   snakemake -n                                             # show what would run
#   snakemake -j 2 --config profile=smoke seeds=[0,1,2]
#   snakemake -j 2 --config seeds=[0,1] 'sweep={"base": {}, "half": {"drop_fa": 0.5}}'
#
# The chapters of one run follow one another; runs go side by side. On a cluster, add one of
# Snakemake's own executors, such as --executor slurm.

import json
import sys

sys.path.insert(0, workflow.basedir)
from memoir_book import chapters as book  # needs nothing beyond Python: Snakemake lives apart

PROFILE = config.get("profile", "smoke")
SEEDS = config.get("seeds", [0])
PYTHON = config.get("python", f"{book.ROOT}/.venv/bin/python")  # the book's own
DATA = config.get("data", "")
DEVICE = config.get("device", "auto")
LAST = book.get_chapter(str(config.get("to", "11")))
SWEEP = config.get("sweep", {"base": {}})
SWEEP = json.loads(SWEEP) if isinstance(SWEEP, str) else SWEEP
CHAPTERS = book.CHAPTERS[: book.CHAPTERS.index(LAST) + 1]
RUNS = [f"{PROFILE}-{name}-seed{seed}" for name in SWEEP for seed in SEEDS]
RUNS = [book.checked("run", run, str, "") for run in RUNS]
FOLDER = f"{book.runs_dir()}/{{run}}"


wildcard_constraints:
    run="[^/]+-seed[0-9]+",


FINISHED = [f"{book.runs_dir()}/{run}/results/{LAST.name}.json" for run in RUNS]
TABLE = f"{book.runs_dir()}/compare/{PROFILE}/table.md"


rule all:
    input:
        TABLE if LAST.number >= "04" else FINISHED,  # before chapter 4 nothing can be compared


rule compare:
    input:
        FINISHED,
    output:
        TABLE,
    params:
        command=[PYTHON, "-m", "memoir_book.seeds", "compare", "--out", PROFILE, *RUNS],
    shell:
        "{params.command:q}"  # every part in quotes: nothing in it is the shell's


def command(chapter):
    """The runner's command for a run: with its seed, and its parameters that a chapter has."""
    known = book.parameters_of(chapter)

    def of(wildcards):
        name, seed = wildcards.run.removeprefix(f"{PROFILE}-").rsplit("-seed", 1)
        parts = [PYTHON, "-m", "memoir_book.run", "--profile", PROFILE, "--run", wildcards.run]
        parts += ["--data", DATA, "--device", DEVICE, "--only", chapter.number, "--seed", seed]
        given = {key: value for key, value in SWEEP[name].items() if key in known}
        return parts + [f"--param={key}={value}" for key, value in given.items()]

    return of


unused = {key for given in SWEEP.values() for key in given} - {
    key for chapter in CHAPTERS for key in book.parameters_of(chapter)
}
if unused:
    raise ValueError(f"no chapter has the parameter {', '.join(sorted(unused))}")

for before, chapter in zip((None, *CHAPTERS), CHAPTERS):

    rule:
        name:
            f"chapter_{chapter.number}"
        input:
            [f"{FOLDER}/results/{before.name}.json"] if before else [],
        output:
            f"{FOLDER}/results/{chapter.name}.json",
        params:
            command=command(chapter),
        shell:
            "{params.command:q}"
