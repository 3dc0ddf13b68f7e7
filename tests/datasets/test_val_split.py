"""The images that are drawn for validation. Exact."""

from collections import Counter

import pytest

from convnext_backbone.datasets.val_split import draw_validation
from convnext_backbone.utils.errors import UserError


def make(number: int, classes: int) -> dict[str, list[int]]:
    return {f'{i}.jpg': [i % classes] for i in range(number)}


def test_the_draw_is_that_of_the_names():
    """It must not change: a run would go on with images to train on that it was validated on."""
    assert draw_validation(make(10, 1)) == {'2.jpg', '6.jpg'}
    assert draw_validation(make(10, 1), 0.5) >= draw_validation(make(10, 1))
    assert draw_validation(dict(reversed(make(10, 1).items()))) == draw_validation(make(10, 1))


@pytest.mark.parametrize(('number', 'classes'), [(100, 1), (100, 10), (1000, 7), (12, 3), (200, 100)])
def test_each_class_has_its_part(number, classes):
    images = make(number, classes)
    drawn = draw_validation(images)
    assert len(drawn) == number / 5 or abs(len(drawn) - number / 5) <= 1
    numbers = Counter(images[name][0] for name in drawn)
    assert all(abs(numbers[label] - number / classes / 5) <= 1 for label in range(classes))


def test_an_image_counts_for_all_its_classes():
    images = {f'{i}.jpg': [k for k in range(1, 30) if i % k == 0] for i in range(2000)}
    drawn = draw_validation(images, 0.3)
    everywhere = Counter(label for labels in images.values() for label in labels)
    there = Counter(label for name in drawn for label in images[name])
    assert len(drawn) == pytest.approx(600, abs=6)
    assert all(there[label] == pytest.approx(0.3 * number, abs=0.1 * number) for label, number in everywhere.items())


def test_the_last_image_of_a_class_is_trained_on():
    images = dict(make(20, 1), **{'rare.jpg': [0, 7], 'other.jpg': [8]})
    assert not draw_validation(images, 0.5) & {'rare.jpg', 'other.jpg'}


def test_images_without_classes_are_drawn_too():
    images = dict.fromkeys(map(str, range(50)), ())
    assert len(draw_validation(images, 0.1)) == 5
    unnamed = {name: [None] if i % 2 else [0, None] for i, name in enumerate(images)}  # category_id=null
    assert len(draw_validation(unnamed, 0.1)) in (5, 6)


def test_augmented_copies_stay_together():
    """Roboflow writes several of one image, which would tell the answers."""
    images = {f'{i}_jpg.rf.{i}{j}ab.jpg': [0] for i in range(10) for j in range(3)}
    drawn = draw_validation(images)
    assert len(drawn) == 6
    assert set(Counter(name.partition('.rf.')[0] for name in drawn).values()) == {3}


def test_there_are_images_for_both():
    for part in (0.01, 0.99):
        assert len(draw_validation(make(2, 1), part)) == 1
    assert len(draw_validation(make(3, 3), 0.01)) == 1
    with pytest.raises(UserError, match='1 image cannot be split into training and validation: add images'):
        draw_validation(make(1, 1))
