"""Prompt alignment on constructed features, where every rank is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.measure import alignment, wilson
from hasten.measure.alignment import overlap

CAPTIONS = ["red apple", "green apple", "blue bird", "sad dog", "old cat", "tall tree", "wet fish"]


def at(*degrees: float) -> Tensor:
    """Pictures that are their own features: unit vectors at angles, of different lengths."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1) * torch.linspace(0.5, 3, len(degrees))[:, None]


def same(images: Tensor) -> Tensor:
    return images


GALLERY = at(0, 10, 20, 30, 40, 50, 60)


def test_ranks_count_as_constructed():
    # at 1 degree the captions come in gallery order, so the prompts are first, second, fifth, sixth and last
    prompts = [CAPTIONS[i] for i in (0, 1, 4, 5, 6)]
    found = alignment(at(*[1.0] * 5), prompts, GALLERY, CAPTIONS, features=same)
    assert set(found) == {"top1", "top5", "words"}
    assert found["top1"] == wilson(1, 5).named("top1") and found["top5"] == wilson(3, 5).named("top5")
    # words: equal; "green apple" shares one of three words with "red apple"; the others none
    assert found["words"].value == pytest.approx((1 + 1 / 3) / 5)
    assert found["words"].n == 5 and 0 <= found["words"].low < found["words"].value < found["words"].high <= 1


def test_all_pictures_drawn_as_asked_are_perfectly_aligned():
    found = alignment(GALLERY.flip(0), CAPTIONS[::-1], GALLERY, CAPTIONS, features=same)
    assert all(found[name].value == 1 and found[name].high == 1 for name in found)


def test_only_the_angle_counts():
    far = at(1, 29) * 1000
    assert alignment(far, ["red apple", "sad dog"], GALLERY, CAPTIONS, features=same)["top1"].value == 1


def test_captions_of_several_pictures_take_one_place():
    captions = ["a", "a", "a", "a", "a", "b", "c"]  # five pictures of "a" must not push "b" out of the first five
    found = alignment(at(0, 0), ["b", "c"], GALLERY, captions, features=same)
    assert (found["top1"].value, found["top5"].value) == (0, 1)


def test_a_feature_that_sees_nothing_finds_nothing():
    found = alignment(at(*[0] * 7), CAPTIONS, GALLERY, CAPTIONS, features=torch.ones_like)
    assert found["top1"].value == pytest.approx(1 / 7) and found["top5"].value == pytest.approx(5 / 7)


def test_prompts_nobody_drew_are_judged_by_words_alone():
    found = alignment(at(11, 1), ["green dog", "purple"], GALLERY, CAPTIONS, features=same)
    assert set(found) == {"words"} and found["words"].value == pytest.approx((1 / 3 + 0) / 2)
    mixed = alignment(at(11, 1), ["green dog", "red apple"], GALLERY, CAPTIONS, features=same)
    assert (mixed["top1"].value, mixed["top1"].n, mixed["words"].n) == (1, 1, 2)


def test_words_are_compared_without_case_and_punctuation():
    assert overlap("Noto: red-apple!", "noto red apple") == 1
    assert overlap("noto red apple", "noto apple red apple") == 1
    assert overlap("a b c", "c d") == 1 / 4
    assert overlap("!", "?") == 1 and overlap("", "a") == 0


def test_real_pictures_find_themselves_after_damage():
    from sklearn.datasets import load_sample_images

    photo = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1).float()[None] / 255
    gallery = photo[:, :, :384, :512].unfold(2, 128, 128).unfold(3, 128, 128).permute(0, 2, 3, 1, 4, 5)
    gallery = gallery.reshape(-1, 3, 128, 128)
    captions = [f"tile {i}" for i in range(len(gallery))]
    noisy = (gallery + 0.05 * torch.randn(gallery.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert alignment(noisy, captions, gallery, captions)["top1"].value == 1
    shifted = [*captions[1:], captions[0]]
    assert alignment(noisy, shifted, gallery, captions)["top1"].value == 0


@pytest.mark.parametrize(
    ("images", "prompts", "gallery", "captions", "told"),
    [
        (at(0), ["a", "b"], GALLERY, CAPTIONS, "1 images, 2 prompts"),
        (at(0), ["a"], GALLERY, ["a"], "7 pictures, 1 captions"),
        (at(0)[:0], [], GALLERY, CAPTIONS, "at least one"),
        (at(0), ["a"], GALLERY[:0], [], "at least one"),
        (at(0)[:, None], ["a"], GALLERY, CAPTIONS, r"images: features must be \(1, D\)"),
        (at(0), ["a"], GALLERY * torch.nan, CAPTIONS, "gallery: .*finite"),
        (torch.ones(1, 3), ["a"], GALLERY, CAPTIONS, "equally long, got 3 and 2"),
    ],
)
def test_bad_input_is_named(images, prompts, gallery, captions, told):
    with pytest.raises(HastenError, match=told):
        alignment(images, prompts, gallery, captions, features=same)
