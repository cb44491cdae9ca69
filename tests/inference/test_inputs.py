"""--images finds each image once, in a fixed order, and gives its prediction a unique name."""

import os

import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import find_images

FILES = (
    "b.jpg",
    "a.png",
    "day/one.JPG",
    "day/two.tif",
    "night/one.jpg",
    "night/deep/one.webp",
    "notes.txt",
    "day/sizes.csv",
    ".cache/hidden.png",
    "day/._one.JPG",
)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(found):
    return [image.name for image in found.images]


def test_a_folder_means_all_images_below_it_by_name_and_counts_the_rest(folder):
    found = find_images([str(folder)])
    assert names(found) == ["a", "b", "day/one", "day/two", "night/deep/one", "night/one"]
    assert [image.path.relative_to(folder).with_suffix("").as_posix() for image in found.images] == names(found)
    assert found.skipped == 2


def test_patterns_mean_files_and_two_stars_any_folders(folder):
    assert names(find_images([f"{folder}/*"])) == ["a", "b"]
    assert names(find_images([f"{folder}/*/one.*"])) == ["day/one", "night/one"]
    assert names(find_images([f"{folder}/**/one.*"])) == ["day/one", "night/deep/one", "night/one"]
    assert find_images([f"{folder}/**"]).skipped == 2


def test_arguments_may_be_repeated_or_divided_by_commas_and_keep_their_order(folder):
    first, second = folder / "night" / "one.jpg", folder / "day"
    expected = ["night/one", "day/one", "day/two"]
    assert names(find_images([str(first), str(second)])) == expected
    assert names(find_images([f"{first},{second}"])) == expected


def test_an_image_that_is_named_twice_counts_once(folder):
    found = find_images([str(folder / "b.jpg"), str(folder), f"{folder}/*.jpg", os.path.relpath(folder / "b.jpg")])
    assert names(found) == ["b", "a", "day/one", "day/two", "night/deep/one", "night/one"]


def test_a_file_whose_name_has_a_comma_or_a_wildcard_is_found(folder):
    for name in ("c,d.png", "[e].png"):
        (folder / name).touch()
        assert [image.path.name for image in find_images([str(folder / name)]).images] == [name]


def test_a_named_file_needs_no_image_suffix(folder):
    assert names(find_images([str(folder / "notes.txt")])) == ["notes"]


def test_images_of_one_name_in_different_folders_stay_apart(folder):
    found = find_images([str(folder / "day" / "one.JPG"), str(folder / "night" / "one.jpg")])
    assert names(found) == ["day/one", "night/one"]


def test_images_that_differ_only_in_their_suffix_keep_it(folder):
    (folder / "a.jpg").touch()
    assert names(find_images([f"{folder}/*.*"])) == ["a.jpg", "a.png", "b"]
    (folder / "a.jpg.png").touch()
    found = names(find_images([f"{folder}/*.*"]))
    assert found == ["a.jpg", "a.jpg.png", "a.png", "b.jpg"]


def test_predictions_are_not_images_of_the_next_run_unless_named(folder):
    outputs = folder / "predictions" / "classes", folder / "predictions" / "overlays"
    for output in outputs:
        (output / "day").mkdir(parents=True)
        (output / "day" / "one.png").touch()
    for everything in (str(folder), f"{folder}/**"):
        assert not any("predictions" in name for name in names(find_images([everything], outputs=outputs)))
    assert names(find_images([str(outputs[0])], outputs=outputs)) == ["day/one"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("{folder}/c.jpg", "does not exist"),
        ("{folder}/b.jpg,{folder}/c.jpg", "c.jpg, which does not exist"),
        ("{folder}/empty", "holds no image"),
        ("{folder}/texts", "holds no image among 1 files"),
        ("{folder}/*.bmp", "no image matches"),
        ("{folder}/*.txt", "no image matches"),
        ("", "--images is missing"),
    ],
)
def test_an_argument_that_names_no_image_is_refused(folder, argument, said):
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").touch()
    with pytest.raises(UserError, match="--images") as caught:
        find_images([argument.format(folder=folder)])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_no_argument_is_refused():
    with pytest.raises(UserError, match="--images is missing"):
        find_images([])


def test_comma_separated_names_may_exceed_the_longest_file_name(tmp_path):
    names = [tmp_path / f"{i:03}.png" for i in range(100)]
    for name in names:
        name.touch()
    assert [image.path for image in find_images([",".join(map(str, names))]).images] == names


def test_patterns_do_not_follow_links_that_lead_back(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [image.path for image in find_images([f"{tmp_path}/**/*.png"]).images] == [tmp_path / "a" / "x.png"]


def test_an_unknown_home_folder_is_rejected():
    with pytest.raises(UserError, match="names a home folder that does not exist"):
        find_images(["~nobody-at-all/x.png"])
