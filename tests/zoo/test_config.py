"""The config of a build: every bad key is named, and what it plans depends on the packages and the seed alone."""

from collections import Counter
from pathlib import Path

import pytest

from genmad.cli import main
from genmad.cli.zoo_spaces import SpacesSource, space_sources
from genmad.training.config import load_config
from genmad.zoo.catalogue_models import CatalogueSource, changed_arguments
from genmad.zoo.config import ZooConfig, ZooConfigError, read_config
from genmad.zoo.jobs import NOT_BUILT, Job, NotApplicable, NotBuiltError, attempt, reason_of
from genmad.zoo.sources import sources_of
from genmad.zoo.transformers_models import SIZES, TransformersSource, folder_of, task_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_the_shipped_config_is_read_by_builds_and_by_training() -> None:
    config = read_config(None)
    assert config == read_config(CONFIGS / "corpus.yaml")
    assert config.sources == ("transformers", "timm", "diffusers", "pyg", "spaces")
    assert load_config(CONFIGS / "pretrain.yaml").corpus.held_out == config.held_out
    assert config.splits.split("timm.regnet") == "heldout"


def test_each_bad_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("held_outs: [a]\nzoo: {scale: 3, workers: 2}\n")
    with pytest.raises(ZooConfigError) as caught:
        read_config(path)
    text = str(caught.value)
    assert "did you mean held_out?" in text
    assert "did you mean scales?" in text
    assert "'workers'" in text


@pytest.mark.parametrize(
    "text", ["[1, 2]", "zoo: 3", "zoo: {scales: 0}", "zoo: {scales: 1.5}", "zoo: {sources: [tim]}", "a: [",
             "zoo: {heldout_share: 0.6, validation_share: 0.4}", "zoo: {seconds_per_model: soon}"],
)  # fmt: skip
def test_a_bad_config_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert main(["zoo", "build", "--config", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "o")]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_unknown_sources_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "build", "--sources", "tim", "-o", str(tmp_path / "o")]) == 2
    assert "did you mean timm?" in capsys.readouterr().err
    assert main(["zoo", "show", str(tmp_path / "o")]) == 3


def test_transformers_jobs_are_types_times_sizes() -> None:
    source = TransformersSource(types=("gpt2", "clip_text_model"), sizes=4, variants=2, narrow=1)
    jobs = list(source.jobs(0))
    assert Counter(j.family for j in jobs) == {"gpt2": 4 + 3, "clip_text_model": 4}
    assert next(j for j in jobs if j.family == "clip_text_model").group == folder_of("clip_vision_model") == "clip"
    assert len({j.ident for j in jobs}) == len(jobs)
    assert [j.ident for j in source.jobs(0)] == [j.ident for j in jobs]
    assert {j.ident for j in source.jobs(1)} != {j.ident for j in jobs}
    assert len(set(SIZES)) == len(SIZES)


def test_a_type_at_a_size_is_made_with_its_task() -> None:
    source = TransformersSource(types=("gpt2",), sizes=2, variants=0, narrow=0)
    small = list(source.jobs(0))[1]
    done = attempt(source, small)
    assert done.row is not None
    assert (done.row["task"], done.row["modality"]) == ("language modelling", "text")
    assert done.row["num_params"] < 30_000_000
    assert "4 layers, width 384" in done.row["text"]


def test_a_model_that_its_library_cannot_build_is_told_from_one_that_cannot_be_read() -> None:
    source = TransformersSource()
    job = Job(source="transformers", library="x", family="gpt2", variant="v", name="gpt2", settings={"n_layer": "six"})
    assert attempt(source, job).reason.startswith(NOT_BUILT)
    error = NotBuiltError()
    error.__cause__ = ValueError("no\nsecond line")
    assert reason_of(error) == f"{NOT_BUILT}ValueError: no"
    assert reason_of(ValueError("")) == "ValueError: "


def test_task_names_come_from_the_longest_ending() -> None:
    assert task_of("BlipForImageTextToText") == "text generation from images and text"
    assert task_of("GPT2Model") == "features"


class Recorded:
    """A module that keeps its arguments, as those of diffusers do."""

    def __init__(self, **config: object) -> None:
        self.config = config


def test_arguments_for_another_size_come_from_what_the_model_was_made_with() -> None:
    unet = Recorded(block_out_channels=(320, 640), num_layers=12, sample_size=64, _version=1)
    assert changed_arguments(unet, "4 layers") == {"num_layers": 4}
    assert changed_arguments(unet, "half width") == {"block_out_channels": (160, 320)}
    assert changed_arguments(unet, "3 layers, half width") == {"block_out_channels": (160, 320), "num_layers": 3}
    staged = Recorded(depths=(3, 3, 27, 3))
    assert changed_arguments(staged, "6 layers") == {"depths": (1, 1, 3, 1)}
    with pytest.raises(NotApplicable):
        changed_arguments(Recorded(num_layers=2, sample_size=64), "4 layers")


def test_timm_models_are_planned_by_the_file_that_defines_them() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    names = ("resnet18", "vit_tiny_patch16_224", "mobilenetv2_100")
    jobs = list(CatalogueSource(name="timm", sizes=2, names=names).jobs(0))
    assert {(j.name, j.family) for j in jobs} == {
        ("resnet18", "timm.resnet"), ("vit_tiny_patch16_224", "timm.vision_transformer"),
        ("mobilenetv2_100", "timm.efficientnet"),
    }  # fmt: skip
    assert Counter(j.name for j in jobs)["vit_tiny_patch16_224"] == 2


def test_spaces_are_drawn_by_the_seed() -> None:
    (source,) = space_sources(3)
    jobs = list(source.jobs(0))
    assert jobs == list(SpacesSource(samples=3).jobs(0))
    assert jobs != list(SpacesSource(samples=3).jobs(1))
    by_space = Counter(job.family for job in jobs)
    assert set(by_space.values()) == {3}
    assert "spaces.nb201" in by_space
    job = next(j for j in jobs if j.family == "spaces.nb201")
    assert source.make(job).graph.num_nodes > 20
    assert space_sources(0) == ()


def test_sources_keep_the_configs_order() -> None:
    config = ZooConfig(sources=("spaces", "pyg", "transformers"), scales=2)
    assert [s.name for s in sources_of(config, space_sources(1))] == ["spaces", "pyg", "transformers"]
    assert [s.name for s in sources_of(config)] == ["pyg", "transformers"]
