import pytest

from pipelines.evaluation.evaluate import ImageResult, hardest, slug


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("run:a-b", "a-b"),
        ("models:/a@champion", "a@champion"),
        ("/x/y/", "y"),
        ("models:/a/3", "a_3"),
        ("tiny", "tiny"),
    ],
)
def test_references_become_folder_names(reference: str, expected: str) -> None:
    assert slug(reference) == expected


def test_the_hardest_images_are_bicubic_s_worst() -> None:
    scores = {"a-0": 30.0, "b-0": 20.0, "b-1": 21.0, "c-0": 25.0}
    results = [ImageResult(key, "bicubic", psnr, 0.5) for key, psnr in scores.items()]
    results += [ImageResult("a-0", "model", 0.0, 0.5)]
    assert hardest(results, 2) == ["b-0", "c-0"]
    assert hardest(results, 9) == ["b-0", "c-0", "a-0", "b-1"]
